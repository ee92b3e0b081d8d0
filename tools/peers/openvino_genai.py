"""OpenVINO GenAI's pipeline over a model that optimum-intel converted, with its own tokenizer beside it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from peers import measured

REQUIREMENTS = (
    "openvino-genai==2026.4.1.0",
    "openvino==2026.4.1",
    "optimum-intel==2.2.0",
    "nncf==3.4.0",
    "torch==2.13.0",
    "transformers==5.5.4",
)
UNWANTED = ("torchvision",)
"""optimum-intel brings it for images; the one built for CUDA does not load beside a torch for the CPU."""
VARIANTS = {"float32": ("OpenVINO GenAI",), "bfloat16": ("OpenVINO GenAI",), "int8": ("OpenVINO GenAI",)}

_STORED = {"float32": ("--weight-format", "fp32"), "bfloat16": (), "int8": ("--weight-format", "int8")}
"""Without an option weights stay as they are."""
_PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Converts with optimum-intel's command."""
    command = ["-m", "optimum.commands.optimum_cli", "export", "openvino", "--task", "text-generation-with-past"]
    if code := subprocess.call([sys.executable, *command, "--model", checkpoint, *_STORED[dtype], home]):
        sys.exit(code)


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    import openvino
    import openvino_genai

    imported()
    properties: dict[str, str | int] = {"INFERENCE_NUM_THREADS": measured.THREADS}
    if dtype in _PRECISION:
        properties["INFERENCE_PRECISION_HINT"] = _PRECISION[dtype]
    pipeline = openvino_genai.LLMPipeline(home, "CPU", **properties)
    config = openvino_genai.GenerationConfig(do_sample=False, ignore_eos=True)

    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        class Streamer(openvino_genai.StreamerBase):
            def write(self, tokens: int | list[int]) -> object:
                for token in [tokens] if isinstance(tokens, int) else tokens:
                    emit(token)
                return openvino_genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        config.max_new_tokens = count
        pipeline.generate(openvino.Tensor([ids]), config, Streamer())

    return generate


if __name__ == "__main__":
    measured.main(prepare, open, ("openvino", "openvino-genai", "optimum-intel"))
