"""A second process of a bundle: gives a token, prints what memory it holds, and waits until its input is closed."""

import sys

import msgspec

import aot
from aot.bench import child, process_memory
from aot.bench.trial import trial_of


def main(path: str, argument: str) -> None:
    """Arguments are those of `bench.child`."""
    trial = trial_of(argument)
    model = aot.load(path, verify=trial.verify)
    next(child.start_greedy(model, trial, 1).steps)
    print(msgspec.json.encode(process_memory.held_bytes()).decode(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
