"""The chains of a language model, before any is lowered."""

import dataclasses

import pytest

from aot.models.families.config import DecoderConfig
from aot.models.families.family import ModelConfig
from aot.models.language import LanguageModel
from aot.precompile import Combo
from aot.programs.calls import Options

CONFIG = DecoderConfig.from_huggingface(
    {
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
)
COMBOS = (Combo(batch_size=1, prefill_length=8, max_length=16), Combo(batch_size=2, prefill_length=8, max_length=16))


def chains(logits: str = "none", config: DecoderConfig = CONFIG) -> dict:
    model = LanguageModel(ModelConfig(config), "float32", Options(4, logits, 1), COMBOS, lambda: iter(()))
    return {(combo, phase): chain for combo in COMBOS for phase, chain in model.chains(combo, "cpu", {}).items()}


@pytest.mark.parametrize("logits", ["none", "last", "all"])
def test_every_output_of_a_chain_is_given_by_its_calls(logits: str) -> None:
    for (_, phase), chain in chains(logits).items():
        given = {slot for call in chain.calls for _, slot in call.gives if slot.startswith("output/")}

        assert given == {f"output/{name}" for name in chain.outputs}, phase


def test_layers_alike_are_one_program_called_with_the_weights_of_each() -> None:
    blocks = [call for call in chains()[COMBOS[0], "prefill"].calls if call.program.name == "block"]

    assert len(blocks) == 3
    assert len({call.program for call in blocks}) == 1
    assert len({dict(call.takes)["attention/q_proj"] for call in blocks}) == 3


def test_a_layer_with_another_window_is_another_program() -> None:
    windows = dataclasses.replace(CONFIG, windows=(None, None, 4))
    blocks = [call for call in chains(config=windows)[COMBOS[0], "prefill"].calls if call.program.name == "block"]

    assert len({call.program for call in blocks}) == 2
