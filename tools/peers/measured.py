"""The process of a peer: prepares a checkpoint, or generates from what was prepared and prints what that took.

    python -m peers.NAME prepare DTYPE CHECKPOINT HOME
    python -m peers.NAME measure DTYPE VARIANT HOME

The second prints the document that aot.bench.process describes. It imports the standard library alone, and of that
as little as can be before the first token is there.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

PROMPT, TOKENS, CAPACITY, THREADS = 128, 16, 256, 2
"""Tokens of the prompt, tokens generated, tokens that a cache has room for, and threads."""
PARAMETERS = 494_032_768
"""Of the checkpoint: a step reads them all, as the head is the embedding."""
BITS: Mapping[str, float] = {"float32": 32, "bfloat16": 16, "int8": 8}
"""Of a weight."""

_STEADY = 3

Emit = Callable[[int], None]
Generate = Callable[[list[int], int, Emit], None]
"""Generates so many tokens after a prompt, greedily, and hands over each as soon as it is there."""
Prepare = Callable[[str, Path, Path], None]
"""Makes of a checkpoint, for a dtype, in an empty directory, all that `open` needs for each variant."""
Open = Callable[[str, str, Path, Callable[[], None]], Generate]
"""Opens what was prepared for a dtype, as a variant, in a directory; calls the last when the libraries are imported."""


def main(
    prepare: Prepare, open: Open, distributions: tuple[str, ...], bits: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Does what the command line says; `distributions` are those whose versions are recorded.

    `bits` are those of a stored weight in variants that store other ones than their dtype has.
    """
    task, dtype, third, home = sys.argv[1:]
    if task == "prepare":
        prepare(dtype, Path(third), Path(home))
        return
    document = measure(lambda imported: open(dtype, third, Path(home), imported))
    document["weight_bytes"] = int(PARAMETERS * bits.get(third, BITS[dtype]) / 8)
    import json
    from importlib import metadata

    document["versions"] = {name: metadata.version(name) for name in distributions}
    print(json.dumps(document), flush=True)
    os._exit(0)  # some libraries take long to end, or crash


def measure(open: Callable[[Callable[[], None]], Generate]) -> dict[str, object]:
    """Seconds from the start of the process to the points of a first run, then the times of steady ones."""
    start = float(os.environ["AOT_BENCH_START"])
    marks: dict[str, float] = {}
    generate = open(lambda: marks.update({"import": time.monotonic() - start}))
    marks["open"] = time.monotonic() - start
    tokens, times = run(generate, prompt(0), TOKENS)
    marks |= {"first_token": times[1] - start, "sixteen": times[TOKENS] - start}
    steady = [run(generate, prompt(number), TOKENS)[1] for number in range(1, 1 + _STEADY)]
    prefill = [times[1] - times[0] for times in steady]
    decode = [(times[TOKENS] - times[1]) / (TOKENS - 1) for times in steady]
    return {**marks, "prefill": prefill, "decode": decode, "tokens": tokens}


def run(generate: Generate, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """The tokens, and the moments of the start and of each token."""
    tokens, times = [], [time.monotonic()]

    def emit(token: int) -> None:
        times.append(time.monotonic())
        tokens.append(token)

    generate(ids, count, emit)
    return tokens, times


def prompt(number: int) -> list[int]:
    """Token ids; for each number other ones, from the first on, so that no engine knows a prompt already."""
    return [1000 + (7919 * i + 104729 * number) % 150000 for i in range(PROMPT)]
