"""Matrix products in every spelling against NumPy, and quantization against the exact integers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from decoders import config, random
from oracles import records
from oracles.records import Case
from serving import padded, prompts

from aot.bundle import store
from aot.chain import Array, Program
from aot.errors import InputError
from aot.models.checkpoints import checkpoint as checkpoints
from aot.models.checkpoints import quantize
from aot.models.families import names
from aot.models.families.config import DecoderConfig
from aot.models.families.family import ModelConfig
from aot.models.language import LanguageModel
from aot.models.layers.decoder import FamilyDecoder
from aot.precompile import Combo
from aot.programs import product
from aot.programs.calls import GenerationOptions, Sizes
from aot.programs.phases import Phases
from manifests import FAMILIES

SHAPES = [(1, 32, 96), (1, 96, 32), (2, 32, 96), (5, 96, 32), (3, 64, 64)]


@pytest.mark.parametrize(("rows", "out", "width"), SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_product_of_floats_is_accumulated_in_float32(
    platform: str, dtype: str, rows: int, out: int, width: int
) -> None:
    x, weight = random(rows, width, dtype=dtype), random(out, width, dtype=dtype)

    found = jax.jit(lambda x, w: product.project_rows(x, product.Matrix(w), platform))(x, weight)

    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight.astype(np.float64).T, atol=1e-4)


@pytest.mark.parametrize(("rows", "out", "width"), SHAPES)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_an_int8_product_is_that_of_the_exact_integers(platform: str, rows: int, out: int, width: int) -> None:
    x, (weight, scale) = random(rows, width), quantize.quantize_rows(random(out, width), "here")

    found = jax.jit(lambda x, w, s: product.project_rows(x, product.Matrix(w, s), platform))(x, weight, scale)

    row = np.abs(x).max(1, keepdims=True) / np.float32(16319) + np.finfo(np.float32).tiny
    integers = np.rint(x / row).astype(np.int64) @ weight.astype(np.int64).T
    np.testing.assert_allclose(found, integers.astype(np.float64) * row * scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_an_outlier_among_activations_leaves_the_others_their_precision(platform: str, rows: int) -> None:
    x, (weight, scale) = np.array(random(rows, 64)), quantize.quantize_rows(random(32, 64), "here")
    x[:, 3] *= 500
    weight[:, 3] = 0  # what it adds would hide what becomes of the others

    found = jax.jit(lambda x, w, s: product.project_rows(x, product.Matrix(w, s), platform))(x, weight, scale)

    exact = x.astype(np.float64) @ (weight * scale[:, None].astype(np.float64)).T
    assert np.abs(found - exact).mean() < 0.02 * np.abs(exact).mean()


def test_rounded_activations_are_16_bit_integers_in_two_halves_of_int8() -> None:
    integers = np.concatenate([np.arange(-16319, 16320), [16319]]).astype(np.float32)

    (high, low), scale = jax.jit(product.quantize_activations)(integers[None])

    assert (high.dtype, low.dtype, scale.shape) == (np.int8, np.int8, (1, 1))
    np.testing.assert_array_equal(high[0].astype(int) * 128 + low[0], integers)


def test_an_int8_weight_is_exact_beside_activations_that_are_not_rounded() -> None:
    x, (weight, scale) = random(3, 64), quantize.quantize_rows(random(32, 64), "here")

    found = product.project_rows(jnp.asarray(x), product.Matrix(jnp.asarray(weight), jnp.asarray(scale)), "cuda")

    np.testing.assert_allclose(found, x @ (weight * scale[:, None]).T, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_gives_zeros_and_no_nan() -> None:
    x = np.stack([np.zeros(32, np.float32), random(32)])

    halves, scale = product.quantize_activations(jnp.asarray(x))

    assert not np.asarray(halves[:, 0]).any()
    assert np.abs(np.asarray(halves[0, 1]).astype(int)).max() == 127
    assert np.isfinite(scale).all()


def test_a_weight_is_within_half_a_scale_of_what_it_was_and_its_largest_is_exact() -> None:
    matrix = np.vstack([random(70_000, 64), np.zeros((1, 64), np.float32)])  # more than one piece

    rounded, scale = quantize.quantize_rows(matrix, "here")

    assert (np.abs(rounded * scale[:, None] - matrix) <= scale[:, None] * np.float32(0.5001)).all()
    assert np.abs(rounded[:-1].astype(int)).max(1).tolist() == [127] * 70_000
    assert (scale[-1], rounded[-1].any()) == (1, False)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(wrong: float) -> None:
    tensors = iter([("head/output", np.array([[1, wrong]], np.float32))])

    with pytest.raises(InputError, match="weight 'head/output': holds values that are not finite"):
        list(quantize.stored_tensors(tensors, {"head/output": Array((1, 2), "int8")}, 1))


@pytest.mark.parametrize("tied", [True, False])
def test_quantized_weights_are_int8_matrices_each_with_its_scales_and_vectors_as_they_were(tied: bool) -> None:
    decoder = config(tie_word_embeddings=tied)
    plain = names.parameter_shapes(decoder)

    weights = names.weight_arrays(decoder, "bfloat16", "int8")

    matrices = {path for path, shape in plain.items() if len(shape) == 2}
    assert {path for path, array in weights.items() if array.dtype == "int8"} == matrices
    assert {path for path, array in weights.items() if array.dtype == "bfloat16"} == set(plain) - matrices
    assert set(weights) - set(plain) == {names.scale_path(path) for path in matrices}
    assert {weights[names.scale_path(path)] for path in matrices} >= {Array((64,), "float32")}
    assert len(set(map(names.scale_path, matrices))) == len(matrices)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_the_weights_that_are_streamed_are_those_declared_in_their_order(quantization: str | None) -> None:
    decoder = config()
    parameters = [(path, random(*shape)) for path, shape in names.parameter_shapes(decoder).items()]
    model = LanguageModel(
        ModelConfig(decoder), "float16", GenerationOptions(4, "none", 1), (), lambda: iter(parameters), quantization
    )

    found = [(path, Array(array.shape, array.dtype.name)) for path, array in model.weights()]

    assert found == list(model.abstract_weights().items())


def prefilled(decoder: FamilyDecoder, weights: dict[str, Any], rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """The logits of every position, by the functions that a bundle's programs are lowered from."""
    inputs = padded(rows)
    batch, width = np.shape(inputs["tokens"])
    chain = Phases(decoder, GenerationOptions(1, "all", 1)).prefill(Sizes(batch, width, width))
    slots = {f"weight/{path}": jnp.asarray(array) for path, array in weights.items()}
    slots |= {f"input/{name}": jnp.asarray(array, jnp.int32) for name, array in inputs.items()}
    for call in chain.calls[:-2]:  # without those that draw a token
        shapes = dict(call.program.arguments)
        arguments = {
            name: slots.get(slot, jnp.zeros(shapes[name].shape, shapes[name].dtype)) for name, slot in call.takes
        }
        given = jax.jit(call.program.function)(**arguments)
        slots |= {slot: given[name] for name, slot in call.gives}
    return np.asarray(slots["output/logits"])


def parts(name: str, directory: Any) -> tuple[Case, DecoderConfig, dict[str, np.ndarray[Any, Any]]]:
    """What torch makes of a random checkpoint, its configuration and its float32 parameters."""
    oracle = records.read(f"text/{name}")
    oracle.write(directory)
    fields = checkpoints.read_config(directory)
    return (
        oracle,
        DecoderConfig.from_huggingface(fields),
        dict(checkpoints.checkpoint_tensors(directory, fields, "float32")),
    )


def widened(weights: dict[str, Any]) -> dict[str, Any]:
    """Parameters as a bundle stores them, matrices times their scales."""
    return {
        path: array * weights[names.scale_path(path)][:, None] if array.dtype == np.int8 else array
        for path, array in weights.items()
        if not path.endswith("_scale")
    }


def outlying(parameters: dict[str, Any], decoder: DecoderConfig, factor: float) -> dict[str, Any]:
    """Parameters that compute the same, with a factor moved from columns of matrices into what gives their channels."""
    made, shared = (
        {path: np.array(array) for path, array in parameters.items()},
        decoder.num_heads // decoder.num_kv_heads,
    )
    for path, array in made.items():
        place, _, name = path.rpartition("/")
        giver = name.removesuffix("_proj").removesuffix("_bias")
        takers = [taker for taker in names.TAKERS.get(giver, ()) if f"{place}/{taker}" in made]
        if takers:  # not the norm before a head that is the embedding
            array[1] *= np.float32(factor)
        heads = decoder.head_dim * np.arange(shared) if giver == "v" else 0
        for taker in takers if not name.endswith("_bias") else ():
            made[f"{place}/{taker}"][:, 1 + heads] /= np.float32(factor)
    return made


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("factor", [500, 0.002])
def test_channels_that_are_outliers_cost_int8_nothing(name: str, factor: float, tmp_path: Any) -> None:
    oracle, decoder, parameters = parts(name, tmp_path)
    declared = names.weight_arrays(decoder, "float32", "int8")
    (row,) = prompts(16)

    def logits(tensors: dict[str, Any]) -> Any:
        return reference.logits(oracle, row, {names.huggingface_name(path): array for path, array in tensors.items()})

    def error(tensors: dict[str, Any]) -> Any:
        weights = dict(quantize.stored_tensors(iter(tensors.items()), declared, decoder.head_dim))
        return np.abs(logits(widened(weights)) - logits(tensors)).mean()

    changed = outlying(parameters, decoder, factor)

    np.testing.assert_allclose(logits(changed), logits(parameters), rtol=1e-3, atol=1e-3)
    assert 0 < error(changed) < 1.5 * error(parameters)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_column_that_is_larger_than_the_others_costs_them_nothing(dtype: str) -> None:
    norm, wide = np.ones(64, np.float32), random(32, 64)
    plain = {"head/norm": norm, "head/output": wide}
    norm, wide = np.array(norm), np.array(wide)
    norm[[3, 40]] /= 500
    wide[:, [3, 40]] *= 500
    declared = {"head/norm": Array((64,), dtype), "head/output": Array((32, 64), "int8")}
    declared["head/output_scale"] = Array((32,), "float32")

    def errors(tensors: dict[str, Any]) -> Any:
        made = widened(dict(quantize.stored_tensors(iter(tensors.items()), declared, 1)))
        return np.abs(made["head/output"] * made["head/norm"].astype(np.float32) - plain["head/output"]).mean()

    assert errors({"head/norm": norm, "head/output": wide}) < 1.1 * errors(plain)


def test_no_factor_makes_an_activation_larger(tmp_path: Any) -> None:
    _, decoder, parameters = parts("qwen2", tmp_path)

    declared = names.weight_arrays(decoder, "float16", "int8")

    weights = dict(quantize.stored_tensors(iter(parameters.items()), declared, decoder.head_dim))

    vectors = [path for path, array in weights.items() if array.dtype == np.float16]
    assert {path.rpartition("/")[2] for path in vectors} >= {"norm", "v_bias"}
    for path in vectors:
        assert (np.abs(weights[path]) <= np.abs(parameters[path]) * np.float32(1.001)).all(), path


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("llama", "cpu"),
        ("qwen2", "cuda"),
        *(pytest.param(name, "cpu", marks=pytest.mark.slow) for name in FAMILIES if name != "llama"),
    ],
)
def test_int8_logits_are_the_references_with_the_weights_dequantized(name: str, platform: str, tmp_path: Any) -> None:
    oracle, decoder, parameters = parts(name, tmp_path)
    declared = names.weight_arrays(decoder, "float32", "int8")
    weights = dict(quantize.stored_tensors(iter(parameters.items()), declared, decoder.head_dim))
    dequantized = {names.huggingface_name(path): array for path, array in widened(weights).items()}
    rows = prompts(9, 4, 16)

    logits = prefilled(FamilyDecoder(decoder, "float32", platform, "int8"), weights, rows)

    # what is left is the rounding of activations, where the platform has it: 1 in 32,638 of the largest of a row
    tolerance = 5e-4 if platform == "cpu" else 1e-5
    for ours, row in zip(logits, rows, strict=True):
        theirs = reference.logits(oracle, row, oracle.tensors | dequantized)
        assert np.abs(ours[: len(row)] - theirs).max() < tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(("name", "dtype", "tolerance"), [("qwen3", "float16", 0.01), ("llama", "bfloat16", 0.06)])
def test_logits_of_narrow_floats_are_near_torchs_in_float32(
    name: str, dtype: str, tolerance: float, tmp_path: Any
) -> None:
    oracle, decoder, parameters = parts(name, tmp_path)
    declared = names.weight_arrays(decoder, dtype, None)
    weights = dict(quantize.stored_tensors(iter(parameters.items()), declared, decoder.head_dim))
    rows = oracle.rows("three of 16")

    logits = prefilled(FamilyDecoder(decoder, dtype, "cpu"), weights, [row.ids for row in rows])

    for ours, row in zip(logits, rows, strict=True):
        theirs = row.logits[: len(row.ids)]
        assert np.abs(ours[: len(row.ids)] - theirs).max() < tolerance * np.abs(theirs).max()


def memory_of(program: Program) -> Any:
    """What a program takes where it is compiled for this machine with its donated arguments taken over."""
    arguments = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in program.arguments}
    taken = {name: arguments.pop(name) for name in program.donated}
    step = jax.jit(lambda taken, kept: program.function(**taken, **kept), donate_argnums=0)
    return step.lower(taken, arguments).compile().memory_analysis()


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("bfloat16", None), pytest.param("float16", None, marks=pytest.mark.thorough), ("bfloat16", "int8")],
)
def test_a_decode_step_on_cpu_holds_no_copy_of_a_matrix(dtype: str, quantization: str | None) -> None:
    decoder = config(hidden_size=256, intermediate_size=2048, num_hidden_layers=1)
    combo = Combo(batch_size=1, prefill_length=8, max_length=16)
    model = LanguageModel(
        ModelConfig(decoder), dtype, GenerationOptions(4, "none", 1), (combo,), lambda: iter(()), quantization
    )
    calls = model.chains(combo, "cpu", {})["decode"].calls
    block = next(call.program for call in calls if call.program.name == "block")

    memory = memory_of(block)

    # in float32 a block of a float16 matrix, and as much around it
    matrix = dict(block.arguments)["mlp/down_proj"]
    assert matrix.shape == (256, 2048)
    assert memory.temp_size_in_bytes < 256 * 2048 * (2 if dtype == "float16" else np.dtype(matrix.dtype).itemsize)


@pytest.mark.parametrize(
    ("phase", "dtype", "batch"),
    [
        ("decode", "float32", 1),
        pytest.param("decode", "bfloat16", 1, marks=pytest.mark.thorough),
        ("decode", "bfloat16", 3),
        ("prefill", "bfloat16", 1),
    ],
)
def test_a_step_on_cpu_updates_a_cache_of_thousands_of_slots_in_place(phase: str, dtype: str, batch: int) -> None:
    sizes = config(head_dim=64, num_hidden_layers=1)
    phases = Phases(FamilyDecoder(sizes, dtype, "cpu"), GenerationOptions(4, "none", 1))
    calls = getattr(phases, phase)(Sizes(batch, 8, 4096)).calls
    program = next(call.program for call in calls if call.program.name == "block")
    caches = [array for name, array in program.arguments if "cache/" in name]

    memory = memory_of(program)

    size = batch * 2 * 4096 * 64 * (4 if dtype == "float32" else 2)
    assert {math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in caches} == {size}
    assert memory.alias_size_in_bytes > size * len(caches)
    assert memory.temp_size_in_bytes < size / 2


def test_a_decode_step_of_a_bundle_holds_less_than_its_cache_and_its_weights(tiny_bundle: Any) -> None:
    index = store.open(tiny_bundle).index
    calls = {p for e in index.entries if e.phase == "decode" for c in e.chains if c.repeat for p, _ in c.calls}
    programs = [index.programs[place] for place in calls if index.programs[place].name == "block"]

    assert programs
    for program in programs:
        cache = sum(math.prod(a.shape) * 4 for a in program.arguments if a.name.startswith("cache/"))
        weights = sum(math.prod(a.shape) * 4 for a in program.arguments if a.name.startswith("mlp/"))
        for executable in program.executables:
            assert executable.memory["temporaries"] < min(cache, weights)
