"""transformers as it comes: PyTorch's operations one by one, and transformers' own growing cache.

The loop calls the model itself: `generate` would add its set-up and a millisecond or two a token.
"""

from collections.abc import Callable
from pathlib import Path

from peers import measured

REQUIREMENTS = ("torch==2.13.0", "transformers==5.23.0", "numpy==2.4.6")
VARIANTS = {"float32": ("transformers eager",), "bfloat16": ("transformers eager",)}


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Nothing: it loads the checkpoint."""
    (home / "checkpoint").symlink_to(checkpoint)


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    imported()
    torch.set_num_threads(measured.THREADS)
    model = AutoModelForCausalLM.from_pretrained(home / "checkpoint", dtype=dtype)

    @torch.inference_mode()
    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        cache = DynamicCache(config=model.config)
        tokens = torch.tensor([ids])
        for _ in range(count):
            logits = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            emit(int(tokens))

    return generate


if __name__ == "__main__":
    measured.main(prepare, open, ("torch", "transformers"))
