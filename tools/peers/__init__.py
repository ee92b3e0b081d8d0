"""What a user would pick instead of aot, each in a module of its own; `tools/bench` runs them.

A peer's module says what to install (REQUIREMENTS), which variants it has for a dtype (VARIANTS), how a checkpoint is
prepared and how it generates (`prepare` and `open`, see peers.measured). At its top it imports the standard library
alone: what else it needs is in the virtual environment that `peers.preparing` makes of its requirements.
"""

NAMES = ("llama_cpp", "openvino_genai", "onnxruntime_genai", "aotinductor", "jax_jit", "transformers_eager")
