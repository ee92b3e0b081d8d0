"""The measured process of a bundle: `python -m aot.bench.child BUNDLE TRIAL` prints the document of `bench.process`.

TRIAL is what `aot.bench.trial` writes. Nothing is imported before the first token that it does not need.
"""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aot.bench.trial import Trial
    from aot.runtime.model import Model, Run

FIRST = 16
"""Tokens of the answer that is timed from the start of the process."""
_PREFILLS, _DECODED = 5, 48
"""Steady prefills, and the tokens that steady answers have in all at least, as far as there are so many answers."""


def main(path: str, argument: str) -> None:
    """Measures and prints, or prints which AotError it met."""
    import json

    from aot.errors import AotError

    try:
        document = _document(path, argument)
    except AotError as error:
        document = {"error": str(error), "class": type(error).__name__}
    print(json.dumps(document))


def _document(path: str, argument: str) -> dict[str, Any]:
    begin = float(os.environ["AOT_BENCH_START"])
    marks = {}

    import aot

    load = aot.load
    marks["import"] = time.monotonic() - begin
    from aot.bench.trial import trial_of

    trial = trial_of(argument)
    model = load(path, verify=trial.verify)
    marks["open"] = time.monotonic() - begin
    run = start_greedy(model, trial, min(FIRST, trial.new_tokens))
    next(run.steps)
    marks["first_token"] = time.monotonic() - begin
    for _ in run.steps:
        pass
    sixteen = time.monotonic() - begin if trial.new_tokens >= FIRST else None
    answer = run.results[0].token_ids
    return {**marks, "sixteen": sixteen, **_steady(model, trial), "tokens": answer, **_more(model, trial)}


def start_greedy(model: "Model", trial: "Trial", tokens: int) -> "Run":
    """An answer of so many tokens, whatever they are: greedy, and with nothing that ends it."""
    from aot.runtime.options import RequestOptions

    chosen = {"eos_token_id": [], "temperature": 0.0, "seed": 0, "n": 1, "props": trial.props}
    return model.start(list(trial.prompt), RequestOptions.of({**chosen, "max_new_tokens": tokens}))


def _steady(model: "Model", trial: "Trial") -> dict[str, list[float]]:
    prefill, decode = list[float](), list[float]()
    for number in range(_PREFILLS):
        before = time.perf_counter()
        run = start_greedy(model, trial, trial.new_tokens if number * trial.new_tokens < _DECODED else 1)
        next(run.steps)
        prefill.append(time.perf_counter() - before)
        decode += step_seconds(run)
    return {"prefill": prefill, "decode": decode}


def step_seconds(run: "Run") -> list[float]:
    """Seconds a token of each chunk of decode steps."""
    found = []
    tokens, before = len(run.sequences[0].tokens), time.perf_counter()
    for _ in run.steps:
        now = time.perf_counter()
        found.append((now - before) / (len(run.sequences[0].tokens) - tokens))
        tokens, before = len(run.sequences[0].tokens), now
    return found


def _more(model: "Model", trial: "Trial") -> dict[str, Any]:
    """What is measured beside the time of a request."""
    from dataclasses import asdict
    from importlib import metadata

    from aot.bench import bare, dispatch, first_calls, process_memory
    from aot.runtime.device import compilations

    alone = {
        "peak_memory": process_memory.peak_bytes(),
        "compilations": compilations.count_compilations(),
    }  # before there is more than serving
    combo_key = start_greedy(model, trial, 1).sequences[0].entry
    return {
        "versions": {name: metadata.version(name) for name in ("jax-aot", "jaxlib", "numpy")},
        "weight_bytes": bare.step_weight_bytes(model.bundle.index, combo_key),
        **alone,
        "entry": combo_key,
        "memory": asdict(process_memory.of_second(str(model.bundle.path), trial)),
        "dispatch": dispatch.measure_dispatch(model, combo_key, lambda: start_greedy(model, trial, 1)),
        "executables": first_calls.measure_first_calls(model.bundle, combo_key),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
