"""The recipe from a picture to pixels, from the configuration of an image processor of transformers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from aot.faults import Faults
from aot.models.families.fields import Fields

Step = Mapping[str, Any]

CHANNELS = 3
"""Channels of the pixels: all recipes begin with a conversion to RGB."""

# Numbers that Pillow gives to its filters, in which processors are configured.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Of CLIP's training pictures, which the processors of other models have as defaults too.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocessor_fields(
    preprocessor: Mapping[str, Any] | None, place: str, processors: tuple[str, ...], faults: Faults
) -> Fields:
    """The fields of the configuration of one of some processors, which lies beside that of the model at `place`."""
    file = str(PurePath(place).with_name("preprocessor_config.json"))
    if preprocessor is None:
        faults.add(file, "missing; it says how pictures become pixels, fetch it from where the checkpoint is from")
    fields = Fields(preprocessor or {}, file, faults=faults)
    fields.choice("image_processor_type", processors[0], processors)
    for name in ("do_convert_rgb", "do_resize"):
        fields.refuse(name, (True, None))
    return fields


def processor_steps(fields: Fields, resize: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of a processor: to RGB, to the size that is wanted by the steps `resize`, to numbers as in training.

    What a processor says of sizes is left aside: a picture is brought to a size that was built.
    """
    steps: list[Step] = [{"step": "convert", "mode": "RGB"}, *resize]
    if fields.flag("do_rescale", True):
        steps.append({"step": "rescale", "factor": fields.number("rescale_factor", 1 / 255)})
    if fields.flag("do_normalize", True):
        mean, std = _numbers(fields, "image_mean", _MEAN), _numbers(fields, "image_std", _STD)
        if not all(value > 0 for value in std):
            fields.fault("image_std", f"must be above 0, got {std!r}")
        steps.append({"step": "normalize", "mean": mean, "std": std})
    return tuple(steps)


def resampling_filter(fields: Fields) -> str:
    """The name of the filter that pictures are resized with; the processors default to the bicubic one."""
    value = fields.config.get("resample", 3)
    if isinstance(value, bool) or value not in _FILTERS:
        fields.fault("resample", f"must be the number of a filter, one of {_FILTERS!r}, got {value!r}")
    return _FILTERS.get(value, "bicubic") if isinstance(value, int) else "bicubic"


def _numbers(fields: Fields, name: str, default: tuple[float, ...]) -> list[float]:
    value = fields.config.get(name, default)
    listed = list(value) if isinstance(value, (list, tuple)) else [value] * CHANNELS
    if len(listed) != CHANNELS or not all(_is_finite(number) for number in listed):
        fields.fault(name, f"must be a number or a list of {CHANNELS}, got {value!r}")
        return list(default)
    return [float(number) for number in listed]


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
