"""The parameters of a decoder: their paths, their shapes, how they are stored, and what Hugging Face calls them."""

from collections.abc import Mapping

from aot.chain import Array
from aot.models.families.config import DecoderConfig

ParameterShape = tuple[int, ...]

_SHOWN = 8  # faults of one sort that are listed one by one

_OUTSIDE = {
    "embed/tokens": "model.embed_tokens.weight",
    "head/norm": "model.norm.weight",
    "head/output": "lm_head.weight",
}
_NORMS = {"attention/norm": "input_layernorm", "mlp/norm": "post_attention_layernorm"}
_GROUPS = {"attention": "self_attn", "mlp": "mlp"}

TAKERS = {
    "norm": ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "output"),
    "v": ("o_proj",),
    "up": ("down_proj",),
}
"""The matrices, by name, that take what the norm or the projection beside them gives, times what no factor disturbs.

So a factor of a channel may move from their columns into what gives it, and the function stays what it is.
"""


def parameter_shapes(config: DecoderConfig) -> dict[str, ParameterShape]:
    """The shape of each parameter of a checkpoint by its path: the embedding, the layers in order, the head.

    Matrices are (out, in). With tied embeddings there is no `head/output`: the head takes `embed/tokens`.
    """
    block = {f"attention/{name}": shape for name, shape in _attention(config).items()}
    block |= {f"mlp/{name}": shape for name, shape in _mlp(config).items()}
    table = (config.vocab_size, config.hidden_size)
    layers = {f"layers/{i}/{name}": shape for i in range(config.num_layers) for name, shape in block.items()}
    head = {"head/norm": (config.hidden_size,)} | ({} if config.tie_embeddings else {"head/output": table})
    return {"embed/tokens": table} | layers | head


def weight_arrays(config: DecoderConfig, dtype: str, quantization: str | None) -> dict[str, Array]:
    """Each weight of a bundle by its path, in the order of `parameter_shapes`: these in the model's dtype.

    Quantized to int8, each matrix is int8 and followed by that of its `scale_path`.
    """
    made: dict[str, Array] = {}
    for path, shape in parameter_shapes(config).items():
        quantized = quantization == "int8" and len(shape) == 2
        made[path] = Array(shape, "int8" if quantized else dtype)
        if quantized:
            made[scale_path(path)] = Array(shape[:1], "float32")
    return made


def scale_path(path: str) -> str:
    """The path of the float32 scales of a quantized matrix, one for each row."""
    return f"{path.removesuffix('_proj')}_scale"


def _attention(config: DecoderConfig) -> dict[str, ParameterShape]:
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    shapes: dict[str, ParameterShape] = {"norm": (hidden,)}
    shapes |= {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    shapes |= {"o_proj": (hidden, queries)}
    if config.attention_bias:
        shapes |= {"q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,)}
    if config.output_bias:
        shapes |= {"o_bias": (hidden,)}
    if config.qk_norm:
        shapes |= {"q_norm": (head,), "k_norm": (head,)}
    return shapes


def _mlp(config: DecoderConfig) -> dict[str, ParameterShape]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, ParameterShape] = {"norm": (hidden,)}
    shapes |= {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    if config.mlp_bias:
        shapes |= {"gate_bias": (inner,), "up_bias": (inner,), "down_bias": (hidden,)}
    return shapes


def huggingface_name(path: str) -> str:
    """The name of a parameter in a Hugging Face checkpoint: `model.layers.3.self_attn.q_proj.weight` and the like."""
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    _, layer, group, name = path.split("/")
    if (norm := _NORMS.get(f"{group}/{name}")) is not None:
        return f"model.layers.{layer}.{norm}.weight"
    inside = f"{name.removesuffix('_bias')}_proj.bias" if name.endswith("_bias") else f"{name}.weight"
    return f"model.layers.{layer}.{_GROUPS[group]}.{inside}"


def name_faults(
    wanted: Mapping[str, ParameterShape], found: Mapping[str, ParameterShape], place: str, noun: str
) -> list[str]:
    """A line for each `noun` that is missing, not used, or of another shape; a long list is cut, with a count."""
    missing = [name for name in wanted if name not in found]
    surplus = sorted(set(found) - set(wanted))
    misshapen = [name for name in wanted if name in found and tuple(found[name]) != tuple(wanted[name])]
    return [
        *cut_lines([f"{place}: {noun} {name!r} is missing" for name in missing], f"{place}: missing {noun}s"),
        *cut_lines(
            [f"{place}: {noun} {name!r} is not used by the model" for name in surplus], f"{place}: unused {noun}s"
        ),
        *cut_lines([_misshapen(place, noun, name, found, wanted) for name in misshapen], f"{place}: misshapen {noun}s"),
    ]


def _misshapen(
    place: str, noun: str, name: str, found: Mapping[str, ParameterShape], wanted: Mapping[str, ParameterShape]
) -> str:
    has, asked = list(found[name]), list(wanted[name])
    return f"{place}: {noun} {name!r} has shape {has}, the configuration asks for {asked}"


def cut_lines(lines: list[str], rest: str) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"{rest}: {more} more"]
