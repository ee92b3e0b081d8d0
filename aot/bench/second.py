"""A second process of a bundle: gives a token, prints what memory it holds, and waits until its input is closed."""

import json
import sys

import aot
from aot.bench import child, process_memory


def main(path: str, options: str) -> None:
    """Arguments are those of `bench.child`."""
    given = json.loads(options)
    model = aot.load(path, verify=given["verify"])
    next(child.start_greedy(model, given, 1).steps)
    print(json.dumps(process_memory.held_bytes()), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
