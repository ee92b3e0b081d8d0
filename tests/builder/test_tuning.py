"""Tunings: read anywhere, replayed without the device, made only on it."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jaxlib.version
import pytest
import synthetic
import toy
from accelerators import GPU, WHEELS, compiled, lowered, needing
from bundles import TODAY, dated
from commands import aot
from places import ROOT
from reports import Heard
from sending import sent

from aot import devices, digest, extras, tuning
from aot import plan as plans
from aot.audit import diff, sides
from aot.audit.rebuild import _moved
from aot.builder import workers
from aot.builder.compiling import compile, cuda
from aot.builder.compiling import tuning as tunings
from aot.builder.reuse import identity
from aot.builder.stages import build, provenance, releases, tune
from aot.bundle import oci, store, weight_writer, weights
from aot.bundle.index import codec
from aot.bundle.index.records import BlobRecord, Index
from aot.bundle.writer import Writer
from aot.cli import main
from aot.errors import AotError, BundleError, InputError, MachineError, ManifestError
from aot.runtime.fitting import machine
from aot.runtime.fitting.machine import Accelerator, Accelerators
from aot.targets import CudaTarget, Target
from aot.tuning import Choice, Tuning

H200 = CudaTarget("h200")
ANY = "config { [type.googleapis.com/xla.autotuner.BackendConfig]"
NATIVE = f'other {{ name: "NATIVE_EMITTER" {ANY} {{ native_emitter {{ }} }} }} }}'
BLOCKS = (
    f'other {{ name: "BLOCK_LEVEL_EMITTER" {ANY} {{ block_level {{ '
    "num_warps: 1 output_tiles { sizes: 4 } num_ctas: 1 num_stages: 1 } } } }"
)
ADD = "{\n  tmp_0 = f32[4]{0} parameter(0)\n  ROOT tmp_1 = f32[4]{0} add(tmp_0, tmp_0)\n}"
MULTIPLY = ADD.replace("add", "multiply")
FOUND = Tuning("h200", (Choice(ADD, 45, NATIVE), Choice(MULTIPLY, 45, BLOCKS)))
DUMPED = """\
version: 3
results {
  device: "CUDA: 9.0, Cores: 132, GPU clock: 1.98 GHz"
  hlo: "{\\n  tmp_0 = f32[4]{0} parameter(0)\\n  ROOT tmp_1 = f32[4]{0} multiply(tmp_0, tmp_0)\\n}"
  result {
    scratch_bytes: 128
    run_time {
      nanos: 1234
    }
    other {
      name: "BLOCK_LEVEL_EMITTER"
      config {
        [type.googleapis.com/xla.autotuner.BackendConfig] {
          block_level {
            num_warps: 1
            output_tiles {
              sizes: 4
            }
            num_ctas: 1
            num_stages: 1
          }
        }
      }
    }
  }
  version: 45
}
results {
  device: "CUDA: 9.0, Cores: 132, GPU clock: 1.98 GHz"
  hlo: "{\\n  tmp_0 = f32[4]{0} parameter(0)\\n  ROOT tmp_1 = f32[4]{0} add(tmp_0, tmp_0)\\n}"
  result {
    run_time {
      seconds: 1
    }
    other {
      name: "NATIVE_EMITTER"
      config {
        [type.googleapis.com/xla.autotuner.BackendConfig] {
          native_emitter {
          }
        }
      }
    }
  }
  version: 45
}
"""


def manifest(home: Path, *targets: str, tuned: str = "h200.json") -> Path:
    """The toy model for one H200 whose tuning is named, and for other targets."""
    path = toy.manifest(home)
    every = ", ".join([f"{{cuda: {{device: h200, tuning: {tuned}}}}}", *targets])
    path.write_text(path.read_text().replace("[cpu]", "[cpu, cuda]") + f"targets: [{every}]\n")
    return path


def planned(path: Path) -> plans.Plan:
    return plans.resolve(plans.read_manifest(path))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with the extra, as far as it shows."""
    monkeypatch.setattr(extras, "wheel_version", lambda name: WHEELS.get(name, "13.5.37"))


def test_a_tuning_has_one_spelling_whatever_the_order_and_white_space_of_its_file(tmp_path: Path) -> None:
    plain = json.loads(FOUND.to_bytes())
    plain["choices"].reverse()
    (tmp_path / "other.json").write_text(json.dumps(dict(reversed(plain.items())), indent=7))

    assert tuning.read_tuning(tmp_path / "other.json", "h200") == FOUND
    assert tuning.read_tuning(tmp_path / "other.json", "h200").to_bytes() == FOUND.to_bytes()


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(FOUND.to_bytes()), **fields}).encode()


ROW = {"hlo": ["x"], "version": 45, "result": NATIVE}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\xff", "is no tuning: not UTF-8 at byte 0"),
        (b"{", "is no tuning: Expecting property name"),
        (b"[" * 100_000, "is no tuning: "),
        (b"[]", "is no tuning: it must be an object, got "),
        (
            b'{"format": 1, "format": 1, "device": "h200", "choices": []}',
            "is no tuning: the name 'format' occurs twice",
        ),
        (changed(host="me"), "is no tuning: it has the unknown field 'host'; known: format, device, choices"),
        (changed(format=2), "is no tuning: format must be 1, got 2"),
        (changed(format=True), "is no tuning: it.format must be of type int, got True"),
        (changed(choices=[{**ROW, "version": "45"}]), r"is no tuning: choices\[0\].version must be of type int"),
        (changed(choices=[{**ROW, "hlo": [1]}]), r"is no tuning: choices\[0\].hlo must be a list of lines"),
        (changed(choices=[{**ROW, "hlo": []}]), r"is no tuning: choices\[0\].hlo must be a list of lines"),
        (changed(choices=[ROW, ROW]), "is no tuning: two choices for one operation, x"),
        (changed(choices=[ROW, {**ROW, "version": 44}]), "is no tuning: two choices for one operation, x"),
        (
            changed(choices=[{**ROW, "hlo": ["{", "ROOT x", "}"], "result": 'other { name: "CUDNN" }'}]),
            "is no tuning: cuDNN was chosen for the fusion x }, which needs the device",
        ),
        (changed(device="l4"), "was tuned on 'l4', the target is 'h200'; name another file, or remove it and run `aot"),
    ],
)
def test_what_is_no_tuning_of_the_device_is_an_error_of_the_manifest_at_its_line(
    tmp_path: Path, data: bytes, cause: str
) -> None:
    path = manifest(tmp_path)
    (tmp_path / "h200.json").write_bytes(data)
    with pytest.raises(ManifestError) as raised:
        planned(path)

    assert re.match(
        rf"{re.escape(str(path))}:5: targets\[0\].cuda.tuning: {re.escape(str(tmp_path))}/h200.json: {cause}",
        str(raised.value),
    )
    assert "`aot tune`" in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_only_a_target_of_a_device_that_can_be_tuned_has_a_tuning(tmp_path: Path) -> None:
    for target in ("{cpu: {tuning: x.json}}", "{tpu: {topology: 'v5e:2x2', tuning: x.json}}"):
        with pytest.raises(ManifestError, match=r":5: unknown key 'tuning'; allowed: "):
            planned(manifest(tmp_path, target))


def test_targets_that_differ_in_their_tuning_alone_are_one_twice(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="targets: values must be distinct"):
        planned(manifest(tmp_path, "{cuda: {device: h200, tuning: other.json}}"))


def test_two_targets_cannot_share_a_tuning(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"targets\[1\].cuda.tuning: .*h200.json: is the tuning of another target"):
        planned(manifest(tmp_path, "{cuda: {device: h200, devices: 2, mesh: {data: 2}, tuning: ./h200.json}}"))


def test_a_tuning_that_is_not_there_is_a_remark_of_the_plan(tmp_path: Path) -> None:
    plan = planned(manifest(tmp_path))
    before = plans.untuned(plan)
    (tmp_path / "h200.json").write_bytes(FOUND.to_bytes())

    assert before == (f"targets[0]: cuda: {tmp_path}/h200.json is not there; {tuning.ADVICE}",)
    assert plans.untuned(plan) == ()
    assert sent(plan) == plan


@pytest.mark.usefixtures("installed")
def test_a_tuning_that_is_not_there_ends_a_build_before_anything_is_made(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(build, "laid_out", lambda *rest: pytest.fail("work was begun"))
    monkeypatch.setattr(cuda, "replays", lambda: True)
    path = manifest(tmp_path)

    said = refused(2, "build", path, "-o", tmp_path / "bundle")

    assert said == f"{tmp_path}/h200.json: is not there; {tuning.ADVICE}"


@pytest.mark.parametrize(
    ("have", "named"),
    [
        (Accelerators(()), "this machine has no NVIDIA GPU"),
        (Accelerators((Accelerator("NVIDIA L4", "8.9"),)), "this machine has NVIDIA L4"),
    ],
)
def test_tuning_without_the_device_is_refused_before_anything_is_lowered(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: Any, have: Accelerators, named: str
) -> None:
    monkeypatch.setattr(machine, "accelerators_of", lambda platform: have)
    monkeypatch.setattr(build, "lower_plan", lambda *rest: pytest.fail("work was begun"))

    said = refused(4, "tune", manifest(tmp_path))

    assert said == f"target cuda h200: is tuned on 1 of it, {named}; run `aot tune` where it is"


def test_without_a_target_that_names_a_tuning_there_is_nothing_to_tune(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert refused(2, "tune", toy.manifest(tmp_path)).startswith(
        "tune: no target names a tuning; give one a path: {cuda"
    )


def test_a_tuning_that_could_not_be_written_is_refused_before_anything_is_tuned(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(machine, "accelerators_of", lambda platform: Accelerators((GPU,)))

    assert "is no directory that can be written" in refused(2, "tune", manifest(tmp_path, tuned="absent/h200.json"))


def test_what_xla_writes_becomes_a_tuning_without_what_was_measured() -> None:
    found = tunings.collected(DUMPED, "h200")

    assert found == FOUND
    assert b"nanos" not in found.to_bytes()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "version must be 3, got None"),
        (DUMPED.replace("version: 3", "version: 4"), "version must be 3, got 4"),
        (DUMPED.replace("CUDA: 9.0", "CUDA: 8.9", 1), "choices of more than one kind of device"),
        (DUMPED[:-3], "it ends within a message"),
        (DUMPED.replace("version: 45", "", 1), "'version'"),
        (DUMPED.replace("scratch_bytes: 128", "scratch_bytes ? 128"), "no protobuf as text at character"),
        (DUMPED.replace("multiply", "add"), "two choices for one operation"),
        (DUMPED.replace("NATIVE_EMITTER", "CUDNN"), "cuDNN was chosen for the fusion"),
    ],
)
def test_what_xla_writes_otherwise_than_expected_is_named(text: str, cause: str) -> None:
    with pytest.raises(AotError, match=f"^target cuda h200: what XLA chose is not as expected: {cause}.*; report it$"):
        tunings.collected(text, "h200")


def stored(path: Path, home: Path) -> tuple[Target, BlobRecord]:
    """The target of a manifest with its tuning as a blob."""
    with Writer.stage(home) as writer:
        (target,) = tunings.stored_targets(planned(path).targets, writer)
        blob = tunings.tuning_blob(target)
        assert blob is not None
        assert writer.read(blob.digest) == tuning.read_tuning(tunings.path(planned(path).targets[0]), "h200").to_bytes()
    return target, blob


def test_the_choices_are_a_factor_of_the_executable_and_the_path_of_their_file_is_none(tmp_path: Path) -> None:
    made = []
    for name, found in (("a", FOUND), ("b", FOUND), ("c", Tuning("h200", FOUND.choices[:1]))):
        path = manifest(tmp_path / name, tuned=f"{name}.json")
        (tmp_path / name / f"{name}.json").write_bytes(found.to_bytes())
        made.append(stored(path, tmp_path / "bundle")[0])
    factors = [identity.executable("sha256:0", target) for target in (*made, tunings.without(made[0]))]

    assert factors[0] == factors[1]
    assert digest.canonical_json(factors[0]) != digest.canonical_json(factors[2])
    assert factors[0]["flags"] != factors[3]["flags"]
    assert tunings.without(made[0]) == H200


def test_the_provenance_names_a_tuning_by_its_digest_and_not_by_its_path(tmp_path: Path) -> None:
    path = manifest(tmp_path / "home")
    (tmp_path / "home" / "h200.json").write_bytes(FOUND.to_bytes())
    target, blob = stored(path, tmp_path / "bundle")
    index = with_tuning(tunings.without(target), blob)
    plan = planned(path)
    said = json.loads(
        provenance.statement(plan, releases.installed(), index, digest.digest_of(b""), provenance.Evidence(plan))
    )
    wanted = {"name": "tuning/h200", "digest": {"sha256": digest.hex_of(blob.digest)}}

    assert [
        r for r in said["predicate"]["buildDefinition"]["resolvedDependencies"] if "tuning" in str(r.get("name"))
    ] == [wanted]
    assert str(tmp_path) not in json.dumps(said)


def with_tuning(target: Target, blob: BlobRecord | None, made: bytes = b"code") -> Index:
    """The synthetic index, its executable as if compiled for a target by a tuning."""
    index = synthetic.index()
    program = index.programs[0]
    flags = compile.flags(tunings.with_tuning(target, blob))
    executable = dataclasses.replace(
        program.executables[0],
        target=target.plain(),
        requires=compile.requires(target),
        tuning=blob,
        digest=digest.digest_of(made),
        bytes=len(made),
        flags=flags,
    )
    platform = target.platform
    program = dataclasses.replace(program, platform=platform, executables=(executable,))
    entries = tuple(
        dataclasses.replace(e, chains=tuple(dataclasses.replace(c, platform=platform) for c in e.chains))
        for e in index.entries
    )
    return dataclasses.replace(index, programs=(program,), entries=entries)


def test_of_bundles_that_differ_in_a_tuning_that_alone_is_the_cause() -> None:
    blobs = [synthetic.blob(b"one"), synthetic.blob(b"another"), None]
    one, other, none = (
        sides.Side(with_tuning(H200, blob, str(blob).encode()), str(blob), lambda record: b"", str) for blob in blobs
    )

    for a, b in ((one, other), (none, one), (one, none)):
        (cause,) = diff.causes(a, b)

        assert (cause.factor, cause.detail) == ("tuning", f"tuning of {H200.plain()}")
        assert (cause.a, cause.b) == tuple(codec.plain(s.index.programs[0].executables[0].tuning) for s in (a, b))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One of bytes that only say what they are, its executable compiled by a tuning."""
    blob = synthetic.blob(FOUND.to_bytes())
    with Writer.stage(tmp_path / "tuned") as staged:
        for data in (synthetic.PROGRAM, b"code", FOUND.to_bytes(), synthetic.TOKENIZER):
            staged.add(data)
        table = weights.plan({path: (array.dtype.name, array.shape) for path, array in synthetic.ARRAYS.items()})
        stored_weights = weight_writer.write_tensors(staged, table, synthetic.ARRAYS.items())
        staged.publish(dataclasses.replace(with_tuning(H200, blob), weights=stored_weights))
    return tmp_path / "tuned"


def test_a_bundle_names_its_tuning_among_its_layers_and_verifies(bundle: Path) -> None:
    found = store.verify(bundle)
    layers = {layer.digest: layer.media_type for layer in found.manifest.layers}

    assert layers[digest.digest_of(FOUND.to_bytes())] == "application/vnd.aot.tuning.v1+json"
    assert found.index.programs[0].executables[0].tuning == synthetic.blob(FOUND.to_bytes())


@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_a_spoiled_tuning_is_named(bundle: Path, spoil: str) -> None:
    file = synthetic.blob_file(bundle, digest.digest_of(FOUND.to_bytes()))
    data = file.read_bytes()
    file.write_bytes(data[::-1] if spoil == "flip" else data[:-1])
    if spoil == "remove":
        file.unlink()
    cause = {"flip": "is damaged", "cut": "bytes, its record says", "remove": "is missing"}[spoil]

    with pytest.raises(BundleError, match=rf"blob sha256:{file.name[:12]}… .*{cause}|{cause}"):
        store.verify(bundle)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (..., "programs[0].executables[0]: missing required field 'tuning'"),
        (7, "programs[0].executables[0].tuning: must be 'object | null', got 'int'"),
        ({"digest": "sha256:0", "bytes": 1}, "programs[0].executables[0].tuning.digest: must be 'str' matching regex"),
        (
            {"digest": synthetic.blob(b"code").digest, "bytes": 9},
            "executables[0].tuning.bytes: the same blob has 4 bytes",
        ),
        ({"digest": "sha256:" + "0" * 64, "bytes": 1}, "lacks the layer sha256:000000000000… that the index names"),
        (None, "has the layer sha256:"),
    ],
)
def test_an_index_that_lies_of_a_tuning_is_refused(bundle: Path, value: Any, cause: str) -> None:
    file = synthetic.blob_file(bundle, store.open(bundle).digest)
    raw = synthetic.opened(file.read_bytes())
    executable = raw["programs"][0]["executables"][0]
    if value is ...:
        del executable["tuning"]
    else:
        executable["tuning"] = value
    synthetic.rewire(bundle, synthetic.closed(raw))

    with pytest.raises(BundleError) as raised:
        store.inspect(bundle)
    assert cause in str(raised.value)


def test_a_tuning_beside_the_manifest_is_audited_from_where_the_audit_lays_it(tmp_path: Path) -> None:
    plan = planned(manifest(tmp_path / "home", "{cuda: {device: l4, tuning: /elsewhere/l4.json}}"))
    moved = _moved(plan, tmp_path / "home", tmp_path / "inputs")

    assert [str(tunings.path(target)) for target in moved.targets] == [
        f"{tmp_path}/inputs/h200.json",
        "/elsewhere/l4.json",
    ]


def test_replacing_a_bundle_never_removes_the_tuning(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "h200.json").write_bytes(FOUND.to_bytes())
    path = manifest(tmp_path / "home", tuned="../bundle/h200.json")

    assert "h200.json', which would be removed" in refused(2, "build", path, "-o", tmp_path / "bundle", "--force")


# What follows compiles, without a GPU.

_ASKS = """
import sys
from pathlib import Path
from aot.builder.compiling import compile, cuda
from aot.builder import settings
from aot.targets import CudaTarget
settings.apply()
target = CudaTarget(sys.argv[2])
compile.lowered_for(Path(sys.argv[1]).read_bytes(), (), cuda.devices(target, 1)).compile(dict(cuda._TUNED))
"""
_MISS = re.compile(r"Autotune cache miss: key = <key model='(.*?)', hlo='(.*?)', version=(\d+)>", re.DOTALL)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer.stage(tmp_path / "bundle") as staged:
        yield staged


def asked(program: bytes, home: Path, device: str = "h200") -> list[tuple[str, str, int]]:
    """For what XLA looks up a choice when it compiles a program for a device: model, operation, version."""
    home.mkdir()
    (home / "program").write_bytes(program)
    spoken = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "autotuner_cache=3"}
    done = subprocess.run(
        [sys.executable, "-c", _ASKS, home / "program", device],
        env={**workers._FIXED, **spoken, "PYTHONPATH": str(ROOT)},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(model, hlo, int(version)) for model, hlo, version in _MISS.findall(done.stderr)]


def chosen(program: bytes, home: Path, result: str) -> Tuning:
    """A tuning with one and the same choice for all that a program asks."""
    return tuning.tuning_of("h200", (Choice(hlo, version, result) for _, hlo, version in asked(program, home)))


def target(found: Tuning, writer: Writer) -> Target:
    return tunings.with_tuning(H200, writer.add(found.to_bytes()))


def needs_cuda(test: Any) -> Any:
    for mark in (*needing("cuda"), pytest.mark.skipif(not cuda.replays(), reason="this jaxlib replays no tuning")):
        test = mark(test)
    return test


def test_a_tuning_that_the_jaxlib_would_not_replay_is_refused_by_name(monkeypatch: Any) -> None:
    monkeypatch.setattr(extras, "missing_extra", lambda name: "")
    for version, refused in (((0, 10, 2), False), ((0, 12, 0, 1), True)):
        monkeypatch.setattr(jaxlib.version, "__version_info__", version)

        cuda.check(H200)
        with pytest.raises(MachineError, match="a tuning is not replayed") if refused else nullcontext():
            cuda.check(CudaTarget("h200", tuning="h200.json"))


@needs_cuda
def test_choices_are_replayed_without_the_device_and_decide_the_executable(tmp_path: Path, writer: Writer) -> None:
    program = lowered(tmp_path / "toy", writer, H200)
    found = [
        chosen(writer.read(program.digest), tmp_path / name, name_of)
        for name, name_of in (("a", NATIVE), ("b", BLOCKS))
    ]
    one, again, other = (compiled(program, target(each, writer), writer) for each in (found[0], found[0], found[1]))
    untuned = compiled(program, H200, writer)

    assert len(found[0].choices) == 1
    assert one == again
    assert len({one.digest, other.digest, untuned.digest}) == 3
    assert (one.built_for, one.tuning) == (H200, synthetic.blob(found[0].to_bytes()))
    assert untuned.tuning is None
    assert b"__triton" in writer.read(other.digest)
    assert b"__triton" not in writer.read(one.digest)


@needs_cuda
@pytest.mark.parametrize(
    "lacking",
    [
        lambda found: Tuning("h200", ()),
        lambda found: tuning.tuning_of("h200", (dataclasses.replace(c, version=c.version - 1) for c in found.choices)),
        lambda found: tuning.tuning_of(
            "h200", (dataclasses.replace(c, hlo=c.hlo.replace("f32", "f16")) for c in found.choices)
        ),
    ],
    ids=["none", "of another version", "of another operation"],
)
def test_a_choice_that_lacks_ends_the_build_by_name(lacking: Any, tmp_path: Path, writer: Writer) -> None:
    program = lowered(tmp_path / "toy", writer, H200)
    found = chosen(writer.read(program.digest), tmp_path / "asked", NATIVE)

    with pytest.raises(
        InputError, match=r"^target cuda h200: its tuning has no choice for %\S+ of program sha256:\w+…,"
    ) as raised:
        compiled(program, target(lacking(found), writer), writer)
    assert str(raised.value).endswith(tuning.ADVICE)


@needs_cuda
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "h200" else pytest.mark.slow) for n in devices.gpu_names()]
)
def test_xla_looks_up_choices_by_the_name_that_we_give_a_device(name: str, tmp_path: Path, writer: Writer) -> None:
    program = lowered(tmp_path / "toy", writer, CudaTarget(name))
    models = {model for model, _, _ in asked(writer.read(program.digest), tmp_path / "asked", name)}

    assert models == {cuda.model(devices.find_gpu(name))}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this a machine with an H200 that chooses what it is told for all that it is asked."""

    def have(result: str) -> None:
        real, known = workers.Worker.request, {}

        def request(self: Any, task: str, *rest: Any, **arguments: Any) -> Any:
            if task != "tune":
                return real(self, task, *rest, **arguments)
            root, name = Path(arguments["staging"]), arguments["program"]
            for _, hlo, version in asked(Writer.join(root).read(name), root.parent / digest.hex_of(name)):
                made = f"result {{ run_time {{ nanos: 7 }} {result} }}"
                known[hlo] = f'results {{ device: "GPU" hlo: {json.dumps(hlo)} version: {version} {made} }}'
            return "\n".join(["version: 3", *known.values()])

        monkeypatch.setattr(machine, "accelerators_of", lambda platform: Accelerators((GPU,)))
        monkeypatch.setattr(workers.Worker, "request", request)

    return have


@needs_cuda
def test_what_a_device_chose_is_written_and_a_build_of_it_holds(
    tmp_path: Path, device: Callable[[str], None], document: Callable[..., dict], capfd: Any, monkeypatch: Any
) -> None:
    path = manifest(tmp_path / "home")
    path.write_text(path.read_text().replace("{}", "{programs: 2}"))
    device(BLOCKS)
    (told,) = document("tune", path)["tunings"]
    monkeypatch.undo()
    found = tuning.read_tuning(tmp_path / "home" / "h200.json", "h200")
    made = document("build", path, "-o", tmp_path / "bundle", "--no-cache")["digest"]
    bundle = store.verify(tmp_path / "bundle")

    assert told == {
        "target": H200.plain(),
        "path": f"{tmp_path}/home/h200.json",
        "digest": digest.digest_of(found.to_bytes()),
        "choices": len(found.choices),
    }
    assert (tmp_path / "home" / "h200.json").read_bytes() == found.to_bytes()
    assert by(bundle.index) == [BlobRecord(told["digest"], len(found.to_bytes()))] * 2
    assert bundle.read(told["digest"], len(found.to_bytes())) == found.to_bytes()
    assert [b.media_type for b in bundle.manifest.layers].count(oci.LAYERS["tuning"]) == 1
    assert aot("diff", tmp_path / "bundle", tmp_path / "bundle").code == 0
    assert made == bundle.digest


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuning]:
    """A directory with a manifest, its tuning and its bundle, and what the tuning says."""
    home = tmp_path_factory.mktemp("tuned")
    with Writer.stage(home / "stage") as staged:
        program = lowered(home / "toy", staged, H200)
        found = chosen(staged.read(program.digest), home / "asked", BLOCKS)
    path = manifest(home / "home")
    (home / "home" / "h200.json").write_bytes(found.to_bytes())
    done = aot("build", path, "-o", home / "bundle", "--no-cache")
    assert done.code == 0, done.err
    return home, found


@needs_cuda
def test_the_same_choices_in_another_file_give_the_same_bundle(tuned: Any, tmp_path: Path, document: Any) -> None:
    home, found = tuned
    path = manifest(tmp_path / "other", tuned="deep/there.json")
    (tmp_path / "other" / "deep").mkdir()
    (tmp_path / "other" / "deep" / "there.json").write_bytes(b"\n" + found.to_bytes())

    made = document("build", path, "-o", tmp_path / "bundle", "--no-cache")

    assert made["digest"] == store.open(home / "bundle").digest


@needs_cuda
def test_a_build_takes_from_the_cache_what_was_compiled_by_the_same_choices(
    tuned: Any, tmp_path: Path, document: Any, monkeypatch: Any
) -> None:
    _, found = tuned
    monkeypatch.setenv("AOT_CACHE_DIR", str(tmp_path / "cache"))
    path = manifest(tmp_path / "home")
    made = []
    for version in (0, 0, 1):  # of another version is a choice that XLA never asks for
        more = tuning.tuning_of("h200", (*found.choices, Choice("unused", version, NATIVE)))
        (tmp_path / "home" / "h200.json").write_bytes(more.to_bytes())
        document("build", path, "-o", tmp_path / "bundle", "--replace")
        index = store.verify(tmp_path / "bundle").index
        assert by(index) == [synthetic.blob(more.to_bytes())]
        made.append(len(list((tmp_path / "cache" / "executable").iterdir())))

    assert made == [1, 1, 2]


@needs_cuda
def test_an_audit_replays_the_tuning(tuned: Any) -> None:
    home, _ = tuned
    done = aot("audit", home / "bundle", "--manifest", home / "home" / "toy.yaml", "--json")

    assert (done.code, done.document["same"]) == (0, True), done.err
    assert "executable" in {row["kind"] for row in done.document["entries"]}


@needs_cuda
def test_a_refresh_replays_the_tuning_that_the_bundle_has(tuned: Any, tmp_path: Path, document: Any) -> None:
    home, found = tuned
    document("refresh", dated(home / "bundle", TODAY, tmp_path / "old"), "-o", tmp_path / "new", "--no-cache")

    assert by(store.verify(tmp_path / "new").index) == [synthetic.blob(found.to_bytes())]


@needs_cuda
def test_a_tuning_is_shown_where_a_bundle_is_explained_and_inspected(tuned: Any, document: Any, capfd: Any) -> None:
    home, found = tuned
    blob = synthetic.blob(found.to_bytes())
    factors = {row["name"]: row["value"] for row in document("explain", home / "bundle")["factors"]}
    inspected = document("inspect", home / "bundle")["entries"][0]["executables"]
    main.run(["inspect", str(home / "bundle")])

    assert factors["tuning"] == [blob.digest]
    assert [row["tuning"] for row in inspected] == [codec.plain(blob)]
    assert "cuda h200, tuned" in capfd.readouterr().out


@needs_cuda
def test_what_a_rebuild_by_other_choices_would_change_is_the_tuning(tuned: Any, tmp_path: Path) -> None:
    home, _ = tuned
    path = manifest(tmp_path)
    (tmp_path / "h200.json").write_bytes(FOUND.to_bytes())
    same = aot("explain", home / "bundle", "--against", home / "home" / "toy.yaml", "--json")
    other = aot("explain", home / "bundle", "--against", path, "--json")

    assert (same.code, same.document["same"]) == (0, True), same.err
    assert [cause["factor"] for cause in other.document["causes"]] == ["tuning"]


@needs_cuda
def test_choices_that_no_build_could_use_are_not_written(
    tmp_path: Path, device: Callable[[str], None], monkeypatch: Any
) -> None:
    path = manifest(tmp_path)
    device(NATIVE)
    monkeypatch.setattr(tunings, "collected", lambda text, device: Tuning(device, ()))
    with pytest.raises(
        AotError, match=r"^tune: the device chose for other operations .*; nothing was written; report it$"
    ):
        tune.tune(planned(path), 1, Heard())

    assert [name for name in os.listdir(tmp_path) if "h200" in name] == []


def by(index: Index) -> list[BlobRecord | None]:
    """The tuning of each executable."""
    return [executable.tuning for program in index.programs for executable in program.executables]


@pytest.mark.device
@pytest.mark.skipif(not machine.accelerators_of("cuda").devices, reason="no NVIDIA GPU")
def test_a_device_tunes_and_builds_anywhere_replay_it(tmp_path: Path, document: Callable[..., dict]) -> None:
    kinds = {device.kind for device in machine.accelerators_of("cuda").devices}
    name = next(name for name in devices.gpu_names() if kinds & set(devices.find_gpu(name).kinds))
    path = manifest(tmp_path / "home")
    path.write_text(path.read_text().replace("device: h200", f"device: {name}"))
    (told,) = document("tune", path)["tunings"]
    made = [document("build", path, "-o", tmp_path / each, "--no-cache")["digest"] for each in ("a", "b")]

    assert told["choices"] > 0
    assert made[0] == made[1]
    assert main.run(["check", str(tmp_path / "a")]) == 0
