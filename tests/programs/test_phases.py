"""The chains of a language model, before any is lowered."""

import dataclasses

import jax
import pytest
from interpreter import jitted

from aot.chain import Program, Repeat
from aot.models.families.config import DecoderConfig
from aot.models.families.family import ModelConfig
from aot.models.language import LanguageModel
from aot.precompile import Combo
from aot.programs.calls import GenerationOptions

FIELDS = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIG = DecoderConfig.from_huggingface(FIELDS)
COMBOS = (Combo(batch_size=1, prefill_length=8, max_length=16), Combo(batch_size=2, prefill_length=8, max_length=16))


def chains(logits: str = "none", config: DecoderConfig = CONFIG) -> dict:
    model = LanguageModel(ModelConfig(config), "float32", GenerationOptions(4, logits, 1), COMBOS, lambda: iter(()))
    return {(combo, phase): chain for combo in COMBOS for phase, chain in model.chains(combo, "cpu", {}).items()}


def text(program: Program) -> str:
    """A program in StableHLO."""
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in program.arguments}
    return jitted(program).lower(**arrays).as_text()


@pytest.mark.parametrize("logits", ["none", "last", "all"])
def test_every_output_of_a_chain_is_given_by_its_calls(logits: str) -> None:
    for (_, phase), chain in chains(logits).items():
        given = {slot for call in chain.calls for _, slot in call.gives if slot.startswith("output/")}
        given |= set() if chain.repeat is None else {chain.repeat.count}

        assert given == {f"output/{name}" for name in chain.outputs}, phase


def test_layers_alike_are_one_program_called_with_the_weights_of_each() -> None:
    blocks = [call for call in chains()[COMBOS[0], "prefill"].calls if call.program.name == "block"]

    assert len(blocks) == 3
    assert len({call.program for call in blocks}) == 1
    assert len({dict(call.takes)["attention/q_proj"] for call in blocks}) == 3


def test_decode_on_one_cpu_repeats_prefills_programs_for_one_token_and_on_a_mesh_is_one_with_the_loop_inside() -> None:
    model = LanguageModel(ModelConfig(CONFIG), "float32", GenerationOptions(4, "none", 1), COMBOS[:1], lambda: iter(()))
    one = Combo(batch_size=1, prefill_length=1, max_length=16)
    prefill, decode = model.chains(one, "cpu", {})["prefill"], chains()[COMBOS[0], "decode"]

    shared = {call.program for call in prefill.calls} & {call.program for call in decode.calls}
    assert {program.name for program in shared} == {"embed", "block", "head", "draw"}
    assert [call.program.name for call in decode.calls] == ["begin", "embed", "block", "block", "block", "head", "draw"]
    assert decode.repeat == Repeat(1, 7, "value/more", 4, "output/steps", ("output/tokens", "output/logprobs"))
    for platform, mesh in (("cpu", {"model": 2}), ("cuda", {}), ("tpu", {})):
        looped = model.chains(one, platform, mesh)["decode"]
        assert ([call.program.name for call in looped.calls], looped.repeat) == (["decode"], None)


def test_what_decode_has_to_load_does_not_grow_with_the_number_of_layers() -> None:
    texts = []
    for layers in (2, 5):
        config = DecoderConfig.from_huggingface({**FIELDS, "num_hidden_layers": layers})
        calls = chains(config=config)[COMBOS[0], "decode"].calls
        assert len(calls) == layers + 4
        texts.append({text(call.program) for call in calls})

    assert texts[0] == texts[1]
    assert len(texts[0]) == 5


def test_the_number_of_steps_in_a_call_is_no_factor_of_programs_that_are_repeated() -> None:
    few, many = (
        LanguageModel(ModelConfig(CONFIG), "float32", GenerationOptions(steps, "none", 1), COMBOS, lambda: iter(()))
        for steps in (4, 32)
    )

    one, other = (model.chains(COMBOS[0], "cpu", {})["decode"] for model in (few, many))
    assert one.calls == other.calls
    assert (one.repeat.most, other.repeat.most) == (4, 32)


def test_a_layer_with_another_window_is_another_program() -> None:
    windows = dataclasses.replace(CONFIG, windows=(None, None, 4))
    blocks = [call for call in chains(config=windows)[COMBOS[0], "prefill"].calls if call.program.name == "block"]

    assert len({call.program for call in blocks}) == 2
