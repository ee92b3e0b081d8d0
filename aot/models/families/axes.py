"""What a decoder's arrays call their axes, from which `partition.axes` of a manifest makes rules."""

from aot.models.families.config import DecoderConfig
from aot.partition import Dimensions

_TOKENS = ("batch", "sequence")
_CACHE = ("batch", "kv_head", "key_sequence", "attention_dim")

_ARRAYS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(vision|projector)/.*|value/vision/.*|input/pixels", ()),  # an image is encoded by every device
    (r"input/embeddings", (*_TOKENS, "hidden")),
    (r"(input|value)/positions", ("batch", None, "sequence")),
    (r"embed/tokens|head/output", ("vocab", "hidden")),
    (r"embed/tokens_scale|head/output_scale", ("vocab",)),
    (r".*/q_proj", ("head", "hidden")),
    (r".*/[kv]_proj", ("kv_head", "hidden")),
    (r".*/o_proj", ("hidden", "head")),
    (r".*/(gate|up)_proj", ("mlp", "hidden")),
    (r".*/down_proj", ("hidden", "mlp")),
    (r".*/[qk]_norm", ("attention_dim",)),
    (r".*/q_(bias|scale)", ("head",)),
    (r".*/[kv]_(bias|scale)", ("kv_head",)),
    (r".*/(gate|up)_(bias|scale)", ("mlp",)),
    (r".*/(o|down)_(bias|scale)|(.*/)?norm", ("hidden",)),
    (r"state/cache/.*", _CACHE),
    (r"state/.*", ("batch",)),
    (r"value/x", (*_TOKENS, "hidden")),
    (r"input/tokens", _TOKENS),
    (r"input/(eos|pad)", ()),
    (r"input/.*", ("batch",)),
)


def axes_of(config: DecoderConfig) -> Dimensions:
    """The dimensions of a decoder's arrays; heads stay whole. Those of matrices are (out, in)."""
    parts = {"head": config.num_heads, "kv_head": config.num_kv_heads}
    return Dimensions(_ARRAYS, parts)
