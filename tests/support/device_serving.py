"""Serves a bundle where it runs by default and prints what that gave, as JSON: `python device_serving.py BUNDLE`."""

import json
import sys
from typing import Any

import aot
from aot.runtime.device import compilations

PROMPTS = ["def main", "import os", "class Foo"]


def device(buffer: Any) -> list[str]:
    """What the device that holds an array is, as jax has it."""
    found = buffer._sharding._device  # all there is of `devices` without jax
    return [found.platform, found.device_kind]


def main(bundle: str) -> None:
    with aot.load(bundle) as model:
        results = model.generate(PROMPTS, temperature=0.0)
        pieces = model.generate(PROMPTS[0], n=2, temperature=0.0)
        compiled = compilations.count_compilations()
        (executor,) = model._running
        held = [device(buffer) for buffer in executor._weights.values()]
    document = {
        "results": [[result.token_ids, result.logprobs] for result in (*results, *pieces)],
        "compilations": compiled,
        "devices": [list(each) for each in {tuple(each) for each in held}],
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main(sys.argv[1])
