"""What the weights of a planned model take."""

import math
from collections import Counter

from aot.plan.plan import Plan

_SIZES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4}


def stored(plan: Plan) -> dict[str, int]:
    """Bytes of the weights by their dtype; empty for a factory's, which only its own code knows."""
    if plan.model.config is None:
        return {}
    from aot.models import family

    assert plan.model.dtype is not None, plan.model
    config = family.read(plan.model.config, plan.model.preprocessor)
    found: Counter[str] = Counter()
    for array in config.weights(plan.model.dtype, plan.model.quantization).values():
        found[array.dtype] += math.prod(array.shape) * _SIZES[array.dtype]
    return dict(found)
