"""What a decoder's arrays call their axes, from which `partition.axes` of a manifest makes rules."""

from aot.models.families.config import DecoderConfig
from aot.partition import Dimensions
from aot.slots import INPUT, STATE, VALUE

_TOKENS = ("batch", "sequence")
_CACHE = ("batch", "kv_head", "key_sequence", "attention_dim")

_ARRAYS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (rf"(vision|projector)/.*|{VALUE}/vision/.*|{INPUT}/pixels", ()),  # an image is encoded by every device
    (rf"{INPUT}/embeddings", (*_TOKENS, "hidden")),
    (rf"({INPUT}|{VALUE})/positions", ("batch", None, "sequence")),
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
    (rf"{STATE}/cache/.*", _CACHE),
    (rf"{STATE}/.*", ("batch",)),
    (rf"{VALUE}/x", (*_TOKENS, "hidden")),
    (rf"{INPUT}/tokens", _TOKENS),
    (rf"{INPUT}/(eos|pad)", ()),
    (rf"{INPUT}/.*", ("batch",)),
)


def axes_of(config: DecoderConfig) -> Dimensions:
    """The dimensions of a decoder's arrays; heads stay whole. Those of matrices are (out, in)."""
    parts = {"head": config.num_heads, "kv_head": config.num_kv_heads}
    return Dimensions(_ARRAYS, parts)
