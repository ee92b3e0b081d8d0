"""Whether an executable runs on this machine as built, and if not, why: from its record alone."""

import os
from functools import cache

from aot import extras, isa
from aot.bundle.index.records import ExecutableRecord
from aot.runtime.fitting import machine
from aot.targets import CpuTarget

_SHOWN = 8  # features that a cause names
_LOADERS = ("jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt", "libtpu")  # what else compiled need not be here
_DEVICES = {"cuda": "NVIDIA GPU", "tpu": "TPU"}


def misfit_cause(executable: ExecutableRecord) -> str | None:
    """Why the machine does not run it; None where it does."""
    lacking = _cpu if CpuTarget.platform in executable.target else _accelerator  # most fit, and are read no further
    return lacking(executable) or _versions(executable)


def remark_on(executable: ExecutableRecord) -> str:
    """What to know of one that runs: it may leave cores idle, or miss what the system hides."""
    target, cores = executable.built_for, os.cpu_count() or 1
    threads = target.threads if isinstance(target, CpuTarget) else None
    idle = f"built for {threads} threads, this machine has {cores} cores" if threads and cores > threads else ""
    hidden = "/proc/cpuinfo is hidden, without which XLA's kernels may fail" if isa.cpuinfo_is_hidden() else ""
    return "; ".join(filter(None, (idle, hidden)))


@cache
def jaxlib_version() -> str:
    """The version of the jaxlib that is installed."""
    import jaxlib

    return str(jaxlib.__version__)


def _cpu(executable: ExecutableRecord) -> str | None:
    requires, here = executable.requires, isa.this_machine()
    if requires["machine"] != here.machine:
        return f"built for {requires['machine']}, this machine is {here.machine}"
    if not here.features:
        return f"{_built(executable)}, and what this cpu has is not to be found out (/proc/cpuinfo is hidden)"
    if lacking := isa.missing_features(requires, here):
        rest = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return f"{_built(executable)}, this cpu lacks {', '.join(lacking[:_SHOWN])}{rest}"
    return None


def _accelerator(executable: ExecutableRecord) -> str | None:
    platform, requires = executable.built_for.platform, executable.requires
    here, built = machine.accelerators_of(platform), _built(executable)
    if not here.devices:
        return f"{built}, this machine has no {_DEVICES[platform]}"
    fitting = [device for device in here.devices if device.kind in requires["kinds"]]
    if not fitting:
        return f"{built}, this machine has {', '.join(sorted({device.kind for device in here.devices}))}"
    if len(fitting) < requires["devices"]:
        return f"{built} on {requires['devices']} devices, this machine has {len(fitting)}"
    needed = requires.get("compute_capability")
    if other := sorted({d.compute_capability for d in fitting if d.compute_capability not in (None, needed)}):
        return f"built for compute capability {needed}, this machine has {', '.join(map(str, other))}"
    return _driver(requires.get("driver"), here.driver)


def _built(executable: ExecutableRecord) -> str:
    target = executable.built_for
    return f"built for {target.platform} {target.name}"


def _driver(needed: str | None, here: str | None) -> str | None:
    if needed is None or here is None or int(here.partition(".")[0]) >= int(needed):
        return None
    return f"built for driver {needed} or newer, this machine has {here}"


def _versions(executable: ExecutableRecord) -> str | None:
    compiler = executable.compiler
    for name in _LOADERS:
        if name not in compiler:
            continue
        here = jaxlib_version() if name == "jaxlib" else extras.wheel_version(name)
        if here is None:
            needed = extras.pip_requirement(executable.built_for.platform)
            return f"built by {name} {compiler[name]}, which is not installed; pip install {needed}"
        if here != compiler[name]:
            return f"built by {name} {compiler[name]}, this is {here}"
    return None
