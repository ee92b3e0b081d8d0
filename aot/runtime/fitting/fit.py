"""Whether an executable runs on this machine as built, and if not, why: from its record alone."""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from aot import extras, isa
from aot.bundle.index.records import ExecutableRecord
from aot.runtime.fitting import machine

_SHOWN = 8  # features that a cause names
_LOADERS = ("jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt", "libtpu")  # what else compiled need not be here
_DEVICES = {"cuda": "NVIDIA GPU", "tpu": "TPU"}


def misfit_cause(executable: ExecutableRecord) -> str | None:
    """Why the machine does not run it; None where it does."""
    ((kind, options),) = executable.target.items()
    lacking = _cpu if kind == "cpu" else _accelerator
    return lacking(kind, options, executable.requires) or _versions(kind, executable.compiler)


def remark_on(executable: ExecutableRecord) -> str:
    """What to know of one that runs: it may leave cores idle, or miss what the system hides."""
    ((_, options),) = executable.target.items()
    threads, cores = options.get("threads"), os.cpu_count() or 1
    idle = f"built for {threads} threads, this machine has {cores} cores" if threads and cores > threads else ""
    hidden = "/proc/cpuinfo is hidden, without which XLA's kernels may fail" if isa.cpuinfo_is_hidden() else ""
    return "; ".join(filter(None, (idle, hidden)))


@cache
def jaxlib_version() -> str:
    """The version of the jaxlib that is installed."""
    import jaxlib

    return str(jaxlib.__version__)


def _cpu(kind: str, options: Mapping[str, Any], requires: Mapping[str, Any]) -> str | None:
    here = isa.this_machine()
    if requires["machine"] != here.machine:
        return f"built for {requires['machine']}, this machine is {here.machine}"
    if not here.features:
        return f"built for cpu {options['isa']}, and what this cpu has is not to be found out (/proc/cpuinfo is hidden)"
    if lacking := isa.missing_features(requires, here):
        rest = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return f"built for cpu {options['isa']}, this cpu lacks {', '.join(lacking[:_SHOWN])}{rest}"
    return None


def _accelerator(kind: str, options: Mapping[str, Any], requires: Mapping[str, Any]) -> str | None:
    here = machine.accelerators_of(kind)
    built = f"built for {kind} {options.get('device') or options['topology']}"
    if not here.devices:
        return f"{built}, this machine has no {_DEVICES[kind]}"
    fitting = [device for device in here.devices if device.kind in requires["kinds"]]
    if not fitting:
        return f"{built}, this machine has {', '.join(sorted({device.kind for device in here.devices}))}"
    if len(fitting) < requires["devices"]:
        return f"{built} on {requires['devices']} devices, this machine has {len(fitting)}"
    needed = requires.get("compute_capability")
    if other := sorted({d.compute_capability for d in fitting if d.compute_capability not in (None, needed)}):
        return f"built for compute capability {needed}, this machine has {', '.join(map(str, other))}"
    return _driver(requires.get("driver"), here.driver)


def _driver(needed: str | None, here: str | None) -> str | None:
    if needed is None or here is None or int(here.partition(".")[0]) >= int(needed):
        return None
    return f"built for driver {needed} or newer, this machine has {here}"


def _versions(kind: str, compiler: Mapping[str, str]) -> str | None:
    for name in _LOADERS:
        if name not in compiler:
            continue
        here = jaxlib_version() if name == "jaxlib" else extras.wheel_version(name)
        if here is None:
            return (
                f"built by {name} {compiler[name]}, which is not installed; pip install {extras.pip_requirement(kind)}"
            )
        if here != compiler[name]:
            return f"built by {name} {compiler[name]}, this is {here}"
    return None
