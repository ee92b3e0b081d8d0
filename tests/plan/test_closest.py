"""What is suggested for a name that is not allowed."""

import pytest

from aot import closest
from aot.errors import InputError

DEVICES = ("a100-40gb", "a100-80gb", "b200", "h100-sxm", "h200", "l4", "l40s")


@pytest.mark.parametrize(
    ("name", "allowed", "meant"),
    [
        ("h100", DEVICES, "did you mean 'h100-sxm'? "),
        ("H100", DEVICES, "did you mean 'h100-sxm'? "),
        ("a100", DEVICES, "did you mean 'a100-40gb' or 'a100-80gb'? "),
        ("h300", DEVICES, ""),
        ("v100", DEVICES, ""),
        ("gb200", DEVICES, ""),
        ("v5x", ("v5e", "v5p", "v6e"), "did you mean 'v5p'? "),
        ("", DEVICES, ""),
        ("int4", ("int8",), ""),
        ("gpu", ("cpu", "cuda", "tpu"), ""),
        ("float64", ("float32", "bfloat16", "float16"), ""),
        ("prefil_length", ("batch_size", "prefill_length"), "did you mean 'prefill_length'? "),
        ("avx", ("avx2", "avx512"), "did you mean 'avx2' or 'avx512'? "),
        ("avx3", ("avx2", "avx512"), ""),
    ],
)
def test_what_begins_so_is_suggested_first_never_another_number_and_all_is_listed(
    name: str, allowed: tuple[str, ...], meant: str
) -> None:
    assert closest.closest_hint(name, allowed) == f"{meant}allowed: {', '.join(allowed)}"


ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen2VLForConditionalGeneration")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Qwen2ForCausalML", ["Qwen2ForCausalLM"]),
        ("mistralforcausallm", ["MistralForCausalLM"]),
        ("GraniteForCausalLM", []),
        ("MixtralForCausalLM", []),
        ("MllamaForCausalLM", []),
        ("GemmaForCausalLM", []),
        ("Qwen3ForCausalLM", []),
        ("Qwen2MoeForCausalLM", []),
        ("LlamaForSequenceClassification", []),
    ],
)
def test_another_architecture_is_never_suggested(name: str, meant: list[str]) -> None:
    assert closest.closest_architecture(name, ARCHITECTURES) == meant


KEYS = ("abcdef0" + "0" * 57, "abcdef1" + "1" * 57)


def test_a_key_is_named_by_its_first_digits() -> None:
    assert [closest.find_combo_key(name, KEYS) for name in ("abcdef0", KEYS[1])] == list(KEYS)


@pytest.mark.parametrize(("name", "said"), [("abcdef", "2 keys begin"), ("abc", "no combo"), ("abcdef2", "no combo")])
def test_what_begins_no_key_or_several_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        closest.find_combo_key(name, KEYS)
