"""Encoders of images: from the configuration of one to the functions that compute it."""

from aot.models.families.family import EncoderConfig
from aot.models.families.llava_config import LlavaConfig
from aot.models.families.qwen2_vl import Qwen2VLConfig
from aot.programs.encode import Encoder


def make_encoder(config: EncoderConfig, dtype: str, platform: str) -> Encoder:
    """The functions of an encoder, in a dtype and as a platform computes them best."""
    if isinstance(config, LlavaConfig):
        from aot.models.layers.clip import Clip

        return Clip(config.tower, dtype, platform)
    from aot.models.layers import qwen2_vision

    assert isinstance(config, Qwen2VLConfig), config
    return qwen2_vision.Qwen2VisionEncoder(config, dtype, platform)
