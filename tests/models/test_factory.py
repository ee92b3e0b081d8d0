"""A model of the user's own: named in the manifest, built and served like any other, blamed by name for its faults."""

import inspect
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import classifier
import faulty_models
import jax
import numpy as np
import pytest
from commands import aot, built

import aot as product
from aot import plan as plans
from aot.builder.lowering.lower import Lowered
from aot.builder.tasks.programs import Lower
from aot.builder.tasks.weights import WriteWeights
from aot.builder.workers import Worker
from aot.bundle import store
from aot.bundle.index.records import WeightsRecord
from aot.bundle.writer import Writer
from aot.cli import main
from aot.errors import InputError, NoEntryError
from aot.models import protocol
from aot.runtime.device import compilations, opening
from aot.runtime.fitting import entries

MANIFEST = """\
name: own
model: {{factory: "{factory}", arguments: {{{arguments}}}}}
precompile: {{batch_size: [1, 4]}}
platforms: [{platforms}]
"""


def manifest(home: Path, factory: str, arguments: str = "", platforms: str = "cpu") -> Path:
    path = home / "manifest.yaml"
    path.write_text(MANIFEST.format(factory=factory, arguments=arguments, platforms=platforms))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's bundle, its module beside the manifest and nowhere else that the build looks."""
    home = tmp_path_factory.mktemp("own")
    shutil.copy(classifier.__file__, home)
    return built(manifest(home, "classifier:make", "width: 32, seed: 5", "cpu, tpu"), home / "bundle")


def features(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows).standard_normal((rows, classifier.FEATURES), np.float32)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_served_outputs_are_those_of_flax_for_any_number_of_rows(bundle: Path, rows: int) -> None:
    network = classifier.Network(32, classifier.nnx.Rngs(5))
    expected = np.asarray(network(features(rows)))
    before = compilations.count_compilations()
    with product.load(bundle) as model:
        outputs = model.call("classify", features=features(rows))

    assert compilations.count_compilations() == before
    assert outputs.keys() == {"logits", "probabilities"}
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], jax.nn.softmax(expected), atol=1e-5)


def test_an_entry_for_each_batch_and_a_program_for_each_platform(bundle: Path) -> None:
    index = store.open(bundle).index

    assert index.generation is None
    assert [(entry.phase, index.combos[entry.combo].dimensions["batch_size"]) for entry in index.entries] == [
        ("classify", 1), ("classify", 4),
    ]  # fmt: skip
    assert sorted((p.platform, p.arguments[0].shape) for p in index.programs) == [
        ("cpu", (1, 16)), ("cpu", (4, 16)), ("tpu", (1, 16)), ("tpu", (4, 16)),
    ]  # fmt: skip
    assert main.run(["check", str(bundle)]) == 0


def test_what_does_not_fit_is_refused_by_name(bundle: Path) -> None:
    with product.load(bundle) as model:
        with pytest.raises(NoEntryError, match="5 rows"):
            model.call("classify", features=features(5))
        with pytest.raises(InputError, match="features"):
            model.call("classify", features=features(2)[:, :7])
        with pytest.raises(InputError, match="classify"):
            model.call("clasify", features=features(1))
        with pytest.raises(InputError, match="no language model"):
            model.generate("def")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The process in which a build lowers and fills, shared by many small ones."""
    with Worker() as process:
        yield process


def lowered_and_filled(manifest: Path, worker: Worker) -> tuple[Lowered, WeightsRecord, list[bytes]]:
    """What a build gets from its model: records of programs and of weights, and the programs of them."""
    plan = plans.resolve(plans.read_manifest(manifest))
    with Writer.stage(manifest.parent / "bundle") as writer:
        lowered = worker.request(Lower(plan, writer.root))
        filled = worker.request(WriteWeights(plan, writer.root))
        return lowered, filled, [writer.read(program.digest) for program in lowered.programs]


def test_the_example_of_the_protocol_is_built_and_right(tmp_path: Path, worker: Worker) -> None:
    text = inspect.getdoc(protocol) or ""
    code = text[text.index("    import numpy") : text.index("Served with")]
    (tmp_path / "scale.py").write_text(textwrap.dedent(code))
    lowered, filled, programs = lowered_and_filled(manifest(tmp_path, "scale:make", "width: 16"), worker)
    features, factors = np.full((4, 16), 2, np.float32), np.linspace(0, 1, 16, dtype=np.float32)
    arguments = [(argument.name, argument.shape) for argument in lowered.programs[1].arguments]
    here = opening.open_client(entries.ONE_DEVICE, compiling=True)
    (scaled,) = here.compile(programs[1], lowered.programs[1])([here.put(features), here.put(factors)])

    assert arguments == [("input/features", (4, 16)), ("weight/factors", (16,))]
    assert list(filled.arrays) == ["factors"]
    np.testing.assert_array_equal(scaled, features * factors)


@pytest.mark.parametrize("name", faulty_models.FAULTS)
def test_a_fault_of_the_users_model_is_one_line_that_names_it(name: str, tmp_path: Path, worker: Worker) -> None:
    factory, change, message = faulty_models.FAULTS[name]
    module = f"own_{tmp_path.name}"  # the worker keeps every module that it imports
    (tmp_path / f"{module}.py").write_text(f"{faulty_models.GOOD}\n{change}\n")
    with pytest.raises(InputError) as raised:
        lowered_and_filled(manifest(tmp_path, factory.replace("own", module)), worker)

    assert raised.match(message.replace("'own:", f"'{module}:"))
    assert len(str(raised.value).splitlines()) == 1


def test_the_model_that_the_faults_change_has_none(tmp_path: Path, worker: Worker) -> None:
    (tmp_path / "good.py").write_text(faulty_models.GOOD)

    assert len(lowered_and_filled(manifest(tmp_path, "good:make"), worker)[0].programs) == 2


@pytest.mark.parametrize("command", ["plan", "build"])
def test_the_command_line_blames_the_factory_with_exit_code_2(command: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("print('hello')\ndef make():\n    raise ValueError('no luck')\n")
    done = aot(command, manifest(tmp_path, "own:make"), cwd=tmp_path)

    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "model.factory 'own:make': ValueError: no luck"
    assert "Traceback" not in done.err
    assert not (tmp_path / "dist").exists() or not list((tmp_path / "dist").iterdir())
