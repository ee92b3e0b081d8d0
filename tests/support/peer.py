"""A process of several that serve a bundle: `python peer.py BUNDLE ADDRESS PROCESSES PROCESS TIMEOUT PROMPT [HOW]`.

Prints the seed and the tokens of a request, or `forever` of one after the other; an error as its class and message.
With `stream` it leaves a stream after a step, with `on` it takes all of it; then it asks for another.
"""

import socket
import sys

import aot
from aot.errors import AotError


def free_port() -> int:
    """On which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(model: aot.Model, how: str) -> None:
    """A long request, and another."""
    stream = model.stream([1, 2, 3], max_new_tokens=16, eos_token_id=[])
    if how == "stream":
        next(stream.steps)
    else:
        list(stream)
    model.generate([4, 5], max_new_tokens=4)


def main(bundle: str, coordinator: str, processes: str, process: str, timeout: str, prompt: str, how: str = "") -> None:
    distributed = aot.Distributed(coordinator, int(processes), int(process), float(timeout))
    with aot.load(bundle, distributed=distributed) as model:
        if how not in ("", "forever"):
            return ask(model, how)
        while True:
            result = model.generate(prompt, temperature=1.0)
            print([result.seed, *result.token_ids], flush=True)
            if not how:
                return None


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AotError as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
