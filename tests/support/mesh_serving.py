"""Serves a bundle on its mesh and prints what tests want to know, as JSON: `python mesh_serving.py BUNDLE DEVICES`.

A process of its own, as the number of virtual devices is settled once for each.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import aot
from aot.errors import AotError
from aot.runtime.device import compilations
from aot.runtime.model import Model

PROMPTS = ["def main", "import os", "class Foo"]
DRAWN = {"temperature": 0.8, "seed": 3}
TOKENS = np.array([[5, 6, 7, 0], [9, 8, 7, 6]], np.int32)
LENGTHS = np.array([3, 4], np.int32)


def answers(model: Model) -> dict[str, Any]:
    """What every way of generating gives."""
    run = model.stream(PROMPTS[0], **DRAWN)
    prefill = model.call("prefill", tokens=TOKENS, lengths=LENGTHS)
    decode = model.call("decode", state=prefill.state)
    with ThreadPoolExecutor(4) as pool:
        crowd = [pool.submit(model.generate, prompt, **DRAWN) for prompt in PROMPTS * 4]
    return {
        "threads": [future.result().token_ids for future in crowd],
        "generate": [result.token_ids for result in model.generate(PROMPTS, **DRAWN)],
        "forks": [result.token_ids for result in model.generate(PROMPTS, n=2, **DRAWN)],
        "stream": "".join(run),
        "call": [prefill["token"].tolist(), decode["tokens"].tolist()],
    }


def bytes_each(buffers: Iterable[Any]) -> dict[str, int]:
    """Bytes that each device holds of some arrays."""
    held: Counter[str] = Counter()
    for buffer in buffers:
        for shard in buffer.addressable_shards:
            held[str(shard.device.id)] += shard.data.nbytes
    return dict(held)


def main(bundle: str, devices: Any) -> None:
    with aot.load(bundle, devices=devices) as model:
        (executor,) = model._running
        state = model.call("prefill", tokens=TOKENS, lengths=LENGTHS).state
        assert state is not None
        cache = {slot: buffer for slot, buffer in state.peek().items() if slot.startswith("state/cache")}
        held = {"weights": executor._weights.values(), "cache": cache.values()}
        document = {
            "answers": answers(model),
            "compilations": compilations.count_compilations(),
            "held": {name: bytes_each(buffers) for name, buffers in held.items()},
            "cache": sum(buffer.nbytes for buffer in cache.values()),
        }
        print(json.dumps(document))


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except AotError as error:
        sys.exit(f"{type(error).__name__} {error}")
