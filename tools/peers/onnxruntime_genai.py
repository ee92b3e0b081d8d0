"""onnxruntime-genai over a model that its own builder converted, with the weights packed for the machine beforehand."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from peers import measured

REQUIREMENTS = (
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.31.1",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "torch==2.13.0",
    "transformers==5.23.0",
)
VARIANTS = {
    "float32": ("onnxruntime-genai",),
    "bfloat16": ("onnxruntime-genai",),
    "int8": ("onnxruntime-genai int8", "onnxruntime-genai int4"),
}

_PRECISION = {"float32": "fp32", "bfloat16": "bf16"}


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Converts for each variant, into a directory of its own."""
    for variant in VARIANTS[dtype]:
        precision = _precision(dtype, variant)
        (home / precision).mkdir()
        _convert(precision, checkpoint, home / precision)


def _precision(dtype: str, variant: str) -> str:
    """What the builder calls it: the last word of a variant of int8."""
    return _PRECISION.get(dtype, variant.rpartition(" ")[2])


def _convert(precision: str, checkpoint: Path, home: Path) -> None:
    """Converts, then has onnxruntime write the optimized model with its weights prepacked."""
    built = home / "built"
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    places = ["-m", checkpoint, "-o", built, "-c", home / "cache"]
    if code := subprocess.call([*builder, *places, "-p", precision, "-e", "cpu"]):
        sys.exit(code)
    _prepack(built / "model.onnx", home / "model.onnx")
    config = json.loads((built / "genai_config.json").read_text())
    session = config["model"]["decoder"]["session_options"]
    session |= {"intra_op_num_threads": measured.THREADS, "graph_optimization_level": "ORT_DISABLE_ALL"}
    config["search"]["max_length"] = measured.CAPACITY
    (home / "genai_config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(built / name, home / name)
    shutil.rmtree(built)


def _prepack(source: Path, destination: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = measured.THREADS
    options.optimized_model_filepath = str(destination)
    for name, value in {
        "session.optimized_model_external_initializers_file_name": f"{destination.name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(name, value)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    import onnxruntime_genai

    imported()
    model = onnxruntime_genai.Model(str(home / _precision(dtype, variant)))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=measured.CAPACITY)

    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(ids)
        for _ in range(count):
            generator.generate_next_token()
            emit(int(generator.get_next_tokens()[0]))

    return generate


if __name__ == "__main__":
    blocks = {"onnxruntime-genai int8": 9, "onnxruntime-genai int4": 5}  # 32 weights and a scale of 32 bits
    measured.main(prepare, open, ("onnxruntime", "onnxruntime-genai"), blocks)
