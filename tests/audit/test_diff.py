"""`aot diff` and `aot explain`: the causes of a difference, in order, and not what follows from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
from commands import aot
from layered import manifest as home
from places import TINY

from aot import digest
from aot.audit import diff, explain, factors, stablehlo
from aot.audit.sides import Side
from aot.bundle import store
from aot.bundle.index.records import ExecutableRecord, Index, ProgramRecord
from aot.cli import main
from aot.errors import InputError

OTHER = digest.digest_of(b"other")


def side(index: Index, **other: Any) -> Side:
    """A bundle of which only the index is there; weights differ where their blobs do."""
    made = Side(
        index, digest.digest_of(repr(index).encode()), lambda record: b"", lambda p: index.weights.blobs[0].digest
    )
    return replace(made, **other)


def causes(a: Index, b: Index) -> list[str]:
    return [cause.factor for cause in diff.causes(side(a), side(b))]


def with_program(index: Index, **fields: Any) -> Index:
    return replace(index, programs=(replace(index.programs[0], **fields),))


def with_executable(index: Index, **fields: Any) -> Index:
    executable = replace(index.programs[0].executables[0], **fields)
    return with_program(index, executables=(executable,))


A = synthetic.index()


def test_equal_bundles_have_no_cause() -> None:
    assert diff.causes(side(A), side(synthetic.index())) == ()


def test_a_changed_jax_explains_the_programs_and_is_said_once() -> None:
    b = replace(with_program(A, digest=OTHER), versions={"jax": "0.11.0", "jaxlib": "0.10.2"}, valid_until="2027-01-01")

    (cause,) = diff.causes(side(A), side(b))

    assert (cause.factor, cause.a, cause.b) == ("jax", "0.10.2", "0.11.0")
    assert cause.detail == "explains 1 of 1 programs that differ"


def test_suppressed_tokens_explain_the_programs_and_the_format_that_can_say_so() -> None:
    assert A.generation is not None
    generation = replace(A.generation, sampling={**A.generation.sampling, "suppress": (3,)})

    assert causes(A, replace(with_program(A, digest=OTHER), format=2, generation=generation)) == [
        "generation.suppressed"
    ]
    assert causes(A, replace(A, format=2)) == ["format"]


def test_a_compiler_that_is_the_jaxlib_that_lowered_is_said_once() -> None:
    b = replace(
        with_executable(A, compiler={"jaxlib": "0.11.0"}, digest=OTHER), versions={**A.versions, "jaxlib": "0.11.0"}
    )
    alone = with_executable(A, compiler={"jaxlib": "0.11.0"}, digest=OTHER)

    assert causes(A, b) == ["jaxlib"]
    assert causes(A, alone) == ["compiler"]


def test_causes_come_in_the_order_in_which_they_act() -> None:
    b = replace(
        A, tokenizer={}, versions={**A.versions, "jax": "0.11.0"}, settings={"jax_enable_x64": True}, origin=OTHER
    )

    found = causes(A, b)

    assert found == ["jax", "origin", "tokenizer", "settings"]
    assert found == sorted(found, key=[factor.name for factor in factors.FACTORS].index)


def test_changed_weights_are_named() -> None:
    def weight(changed: str) -> Side:
        stored = {path: path for path in A.weights.arrays} | {changed: "changed"}
        blobs = (synthetic.blob(changed.encode()),)
        return side(replace(A, weights=replace(A.weights, blobs=blobs)), weight=stored.__getitem__)

    (cause,) = diff.causes(weight("none"), weight("layers.0.scale"))

    assert cause.factor == "weights"
    assert cause.detail == "1 of 3 weights differ: layers.0.scale"


def test_a_longer_default_of_max_length_is_blamed_on_max_new_tokens() -> None:
    def made(tokens: int) -> Index:
        dimensions = {"batch_size": 1, "prefill_length": 8, "max_length": 8 + tokens}
        combo = replace(A.combos[0], key=digest.hex_of(digest.digest_of(str(tokens).encode())), dimensions=dimensions)
        assert A.generation is not None
        generation = replace(A.generation, max_new_tokens=tokens, num_return_sequences=1)
        return replace(A, combos=(combo,), entries=A.entries[:1], generation=generation)

    assert causes(made(8), made(9)) == ["generation.max_new_tokens"]
    assert causes(made(8), replace(made(9), generation=made(8).generation)) == ["precompile config"]


def test_executables_that_differ_for_no_recorded_cause_are_reported_as_such() -> None:
    (cause,) = diff.causes(side(A), side(with_executable(A, digest=OTHER)))

    assert (cause.factor, cause.b) == ("executables", OTHER)
    assert causes(A, with_executable(A, digest=OTHER, flags=("--other",))) == ["flags"]


def test_executables_of_a_side_that_is_not_built_are_not_compared() -> None:
    planned = with_executable(A, digest="", bytes=0, memory={})

    assert diff.causes(side(A), side(planned, digest=None)) == ()


def test_a_changed_contract_is_told_before_the_text() -> None:
    arguments = (replace(A.programs[0].arguments[0], name="renamed"), *A.programs[0].arguments[1:])
    b = with_program(A, digest=OTHER, arguments=arguments)

    (cause,) = diff.causes(side(A), side(b))

    assert cause.factor == "calling contracts"
    assert [argument["name"] for argument in cause.b["arguments"]] == ["renamed", "x"]


def test_every_changed_value_of_an_index_has_a_cause() -> None:
    """Whatever differs between two bundles, `diff` says something."""
    executable: ExecutableRecord = A.programs[0].executables[0]
    changes = [
        *(replace(A, **{name: value}) for name, value in {"format": 2, "waivers": (), "model": {}}.items()),
        replace(A, combos=A.combos[::-1]),
        replace(A, rules={}),
        replace(A, partitions=()),
        replace(A, bindings=A.bindings[::-1]),
        replace(A, phases={**A.phases, "more": A.phases["decode"]}),
        with_executable(A, requires={**executable.requires, "machine": "other"}),
        with_executable(A, target={"cpu": {"isa": "avx512", "threads": 32}}),
        with_executable(A, memory={**executable.memory, "outputs": 1}),
        with_executable(A, cost={**executable.cost, "flops": 1}),
        with_program(A, executables=()),
    ]

    assert [changed for changed in changes if not causes(A, changed)] == []


def test_the_order_in_which_a_combo_names_its_dimensions_is_no_cause() -> None:
    def made(tokens: int, order: int) -> Index:
        dimensions = {"batch_size": 1, "prefill_length": 8, "max_length": 8 + tokens}
        combo = replace(A.combos[0], key=str(tokens), dimensions=dict([*dimensions.items()][::order]))
        assert A.generation is not None
        generation = replace(A.generation, max_new_tokens=tokens, num_return_sequences=1)
        return replace(A, combos=(combo,), entries=A.entries[:1], generation=generation)

    assert causes(made(8, 1), made(9, -1)) == ["generation.max_new_tokens"]


def test_the_order_in_which_a_target_names_its_options_is_no_cause() -> None:
    target = {"cpu": {"threads": 32, "isa": "avx2"}}
    changed = with_executable(A, target=target, flags=("--other",), digest=OTHER)

    assert target == A.programs[0].executables[0].target
    assert causes(A, changed) == ["flags"]


def test_of_a_refreshed_bundle_that_it_was_is_the_one_cause() -> None:
    old = side(A)
    renewed = replace(
        with_executable(A, digest=OTHER, compiler={"jaxlib": "0.11.0"}, flags=("--other",), requires={"machine": "x"}),
        versions={"jax": "0.11.0", "jaxlib": "0.11.0"},
        settings={"jax_enable_x64": True},
        valid_until="2027-01-01",
        origin=old.digest,
    )
    (cause,), (mirrored,) = diff.causes(old, side(renewed)), diff.causes(side(renewed), old)
    tampered = diff.causes(old, side(replace(renewed, tokenizer={})))

    assert (cause.factor, cause.a, cause.b) == ("origin", None, old.digest)
    assert cause.detail == "the second was refreshed from the first: jax 0.10.2, 2026-12-31; now jax 0.11.0, 2027-01-01"
    assert (mirrored.a, mirrored.b) == (old.digest, None)
    assert [cause.factor for cause in tampered] == ["origin", "tokenizer"]


def test_a_cause_on_one_line_shows_where_two_long_values_part() -> None:
    config = {f"field_{number}": number for number in range(100)}
    (cause,) = diff.declared(replace(A, model=config), replace(A, model={**config, "field_77": 78}))
    (long,) = diff.declared(replace(A, waivers=("a" * 500 + "b",)), replace(A, waivers=("a" * 500 + "c",)))

    assert cause.line() == 'model config: model.field_77: {"model.field_77": 77}, now {"model.field_77": 78}'
    assert len(long.line()) < 200
    assert 'ab"' in long.line().partition(", now ")[0]
    assert 'ac"' in long.line().partition(", now ")[2]


# What a person does: a constant in the model's source, a comment in it.


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles without executables: `one`, and `two` from a source with another constant."""
    root = tmp_path_factory.mktemp("layers")
    for name in ("one", "two"):
        manifest = home(root / name)
        manifest.write_text(manifest.read_text().replace("{cpu: {isa: avx2, threads: 32}}", ""))
        source = manifest.with_name("layer.py")
        if name == "two":
            source.write_text(source.read_text().replace("OFFSET = 0.5", "OFFSET = 0.75"))
        done = aot("build", manifest, "-o", root / name / "bundle")
        assert done.code == 0, done.err
    return root


def test_a_changed_constant_is_found_in_the_operation_that_uses_it(
    layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["diff", str(layers / "one" / "bundle"), str(layers / "two" / "bundle"), "--json"])
    found = json.loads(capsys.readouterr().out)
    (cause,) = [cause for cause in found["causes"] if cause["factor"] == "StableHLO"]
    evidence = [(other["factor"], other["detail"]) for other in found["causes"] if other is not cause]

    assert (code, found["same"]) == (6, False)
    assert "constant dense<5.000000e-01>" in cause["a"]
    assert "constant dense<7.500000e-01>" in cause["b"]
    assert "program shifted" in cause["detail"]
    assert evidence == [("model source", "model/layer.py")]


def test_a_bundle_is_the_same_as_itself_and_as_what_its_manifest_gives(layers: Path) -> None:
    bundle = layers / "one" / "bundle"
    source = layers / "one" / "layer.py"
    source.write_text("# moved\n\n" + source.read_text())
    results = [
        aot("diff", bundle, bundle, "--json"),
        aot("explain", bundle, "--against", layers / "one" / "layer.yaml", "--json"),
    ]

    assert [(result.code, result.document) for result in results] == [(0, {"same": True, "causes": []})] * 2


def test_explain_against_names_weight_and_operation_that_a_rebuild_would_change(layers: Path, tmp_path: Path) -> None:
    manifest = Path(shutil.copytree(layers / "two", tmp_path / "two")) / "layer.yaml"
    manifest.with_name("weight.txt").write_text("0.75")

    done = aot("explain", layers / "one" / "bundle", "--against", manifest, "--json")

    causes = {cause["factor"]: cause for cause in done.document["causes"]}
    assert (done.code, done.document["same"]) == (6, False)
    assert causes["weights"]["detail"] == "1 of 2 weights differ: weight"
    assert "7.500000e-01" in causes["StableHLO"]["b"]


# explain


def test_explain_lists_every_factor_in_order() -> None:
    rows = explain.bundle(A, "sha256:…").rows()

    assert [row["name"] for row in rows] == [factor.name for factor in factors.FACTORS]
    assert {row["name"]: row["value"] for row in rows}["jax"] == "0.10.2"
    assert {row["name"]: row["value"] for row in rows}["targets"] == [{"cpu": {"isa": "avx2", "threads": 32}}]
    json.dumps(rows)


def test_explain_of_a_key_holds_its_combo_and_its_programs_alone() -> None:
    other = ProgramRecord(OTHER, 1, "other", "cpu", {}, (), (), ())
    calls = tuple(replace(chain, calls=((1, 0),)) for chain in A.entries[0].chains)
    index = replace(A, programs=(*A.programs, other), entries=(replace(A.entries[0], chains=calls), *A.entries[2:]))

    first, second = (explain.subject(index, combo.key[:8]) for combo in A.combos)

    assert [combo.key for combo in first.index.combos] == [A.combos[0].key]
    assert [program.digest for program in first.index.programs] == [OTHER]
    assert [program.digest for program in second.index.programs] == [A.programs[0].digest]
    assert explain.subject(index, OTHER).rows() == explain.subject(first.index, OTHER[7:20]).rows()


def test_what_is_behind_a_program_and_an_executable_is_what_enters_them() -> None:
    for kind, name in (("program", A.programs[0].digest), ("executable", A.programs[0].executables[0].digest)):
        subject = explain.subject(A, name)

        assert subject.kind == kind
        assert [row["name"] for row in subject.rows()] == [f.name for f in factors.FACTORS if kind in f.enters]


@pytest.mark.parametrize("name", ["", "abc", "ffffffff", "sha256:", "no key"])
def test_what_names_nothing_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="is no key, program or executable of this bundle") as error:
        explain.subject(A, name)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["explain", "{bundle}"], 0),
        (["explain", "{bundle}", "0000000"], 2),
        (["explain", "{bundle}", "0000000", "--against", "x.yaml"], 2),
        (["explain", "{bundle}", "--against", "x.yaml"], 2),
        (["explain", "nothing"], 2),
        (["diff", "{bundle}", "nothing"], 2),
        (["diff", "{bundle}", "{bundle}"], 0),
    ],
)
def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> None:
    synthetic.write(tmp_path / "bundle")

    found = main.run([argument.format(bundle=tmp_path / "bundle") for argument in arguments] + ["--json"])
    said = capsys.readouterr()

    assert found == code
    assert (said.out == "") == (code != 0)
    assert len(said.err.splitlines()) == (1 if code else 0)


def test_programs_that_jax_does_not_read_are_told_apart_by_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in (("a", synthetic.PROGRAM), ("b", b"another program")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(synthetic, "PROGRAM", data)
            synthetic.write(tmp_path / name)

    code = main.run(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    (cause,) = json.loads(capsys.readouterr().out)["causes"]

    assert (code, cause["factor"], cause["b"]) == (6, "StableHLO", digest.digest_of(b"another program"))
    assert "the installed jax does not read it" in cause["detail"]


def test_locations_are_no_difference() -> None:
    lines = ["%0 = stablehlo.add %1, %2 : tensor<f32>", "return %0"]

    assert stablehlo.first_difference(lines, lines) is None
    assert stablehlo.first_difference(lines, lines[:1]) == ("return %0", "the end")


@pytest.mark.thorough
def test_the_tiny_bundle_is_explained_from_its_manifest(tiny_bundle: Path) -> None:
    key = store.open(tiny_bundle).index.combos[0].key

    shown = aot("explain", tiny_bundle, key, "--json")
    against = aot("explain", tiny_bundle, "--against", TINY, "--json")

    values = {row["name"]: row["value"] for row in shown.document["factors"]}
    assert len(values["StableHLO"]) > 10
    assert (against.code, against.document) == (0, {"same": True, "causes": []})


@pytest.mark.parametrize("damage", ["flipped", "padded"])
def test_a_damaged_bundle_is_not_called_the_same(
    layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    bundle = layers / "one" / "bundle"
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    weights = store.open(copy).index.weights.blobs[0]
    file = copy / store.BLOBS / digest.hex_of(weights.digest)
    if damage == "flipped":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        (copy / "notes.txt").write_text("more")

    for pair in ([bundle, copy], [copy, bundle]):
        assert main.run(["diff", *map(str, pair)]) == 5
        assert capsys.readouterr().out == ""
    assert main.run(["diff", str(bundle), str(copy), "--index-only"]) == 0


def test_a_program_that_ends_jax_ends_no_diff_and_is_the_last_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").touch()
    (tmp_path / "jax" / "export.py").write_text(
        "import os, signal, types\n"
        "def deserialize(data):\n"
        "    if data == b'bad': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return types.SimpleNamespace(mlir_module=lambda: data.decode())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with stablehlo.Printer() as printer:
        assert printer.lines(b"return %0 loc(unknown)\n#loc") == ["return %0"]
        for program in (b"bad", b"return"):
            with pytest.raises(ValueError, match=r"the installed jax ends its process over a program \(status -11\)"):
                printer.lines(program)
