"""Random numbers that follow from a seed and a name alone: tensors, pictures, and bit patterns of floats.

All are made of the raw words of PCG64, which numpy keeps as they are for good, by integer arithmetic: what numpy's own
distributions draw may change from one release to the next.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the image processors of CLIP and Qwen2-VL."""


def tensor(seed: int, name: str, shape: Sequence[int]) -> Array:
    """A float32 parameter of deviation 0.1, about 1 where it scales a norm: biases too, so that no two are alike."""
    parts = words(seed, name, math.prod(shape)).view("<u2").reshape(-1, 4)
    total = parts.sum(1, dtype=np.int64) - 2 * 0xFFFF  # four uniform numbers add up to nearly a normal one
    scaled = total * (0.1 / math.sqrt(4 / 12 * (1 << 32))) + (len(shape) == 1 and name.endswith("weight"))
    return scaled.astype(np.float32).reshape(shape)


def picture(height: int, width: int, seed: int) -> Array:
    """Noise [height, width, 3] of uint8, so that whatever is mixed up shows."""
    count = height * width * 3
    noise = words(seed, f"picture {height} x {width}", -(-count // 8)).view(np.uint8)
    return noise[:count].reshape(height, width, 3)


def pixels(picture: Array) -> Array:
    """[channels, height, width] of a picture as encoders take it, in float32."""
    scaled = picture.astype(np.float32) * np.float32(1 / 255)
    return ((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def patterns(width: int, mantissa: int, exponents: Sequence[int], mantissas: Sequence[int]) -> Array:
    """All floats of so many bits, as unsigned integers, that have one of the exponents and one of the mantissas."""
    signs = np.array([0, 1 << (width - 1)])[:, None, None]
    bits = signs | (np.array(exponents)[:, None] << mantissa) | np.array(mantissas)
    return bits.reshape(-1).astype(f"uint{width}")


def words(seed: int, name: str, count: int) -> Array:
    """Random uint64."""
    raw = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(count)
    return np.asarray(raw).astype("<u8")
