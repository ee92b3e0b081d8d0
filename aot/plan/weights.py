"""What a planned model is, what its weights take, and whether they are there."""

import math
from collections import Counter
from typing import TYPE_CHECKING

from aot import dtypes
from aot.plan.plan import Plan

if TYPE_CHECKING:
    from aot.models.families.family import ModelConfig


def weight_bytes(plan: Plan) -> dict[str, int]:
    """Bytes of the weights by their dtype; empty for a factory's, which only its own code knows."""
    if plan.model.config is None:
        return {}
    assert plan.model.dtype is not None, plan.model
    found: Counter[str] = Counter()
    for array in _described(plan).weights(plan.model.dtype, plan.model.quantization).values():
        found[array.dtype] += math.prod(array.shape) * dtypes.SIZES[array.dtype]
    return dict(found)


def has_weights(plan: Plan) -> bool:
    """Whether the files of a planned checkpoint's weights are there, which planning does not need."""
    from aot.models.checkpoints import checkpoint

    directory = plan.model.checkpoint
    assert directory is not None, plan.model
    return checkpoint.checkpoint_kind(directory) == "orbax" or bool(checkpoint.weight_files(directory))


def family(plan: Plan) -> str:
    """The family of a planned checkpoint's model."""
    return _described(plan).family


def _described(plan: Plan) -> "ModelConfig":
    from aot.models.families import family

    assert plan.model.config is not None, plan.model
    return family.read_model_config(plan.model.config, plan.model.preprocessor)
