"""A process of several that serve a bundle: `python peer.py BUNDLE ADDRESS PROCESSES PROCESS TIMEOUT PROMPT [forever]`.

Prints the seed and the tokens of a request, or of one after the other; an error as its class and message.
"""

import sys

import aot
from aot.errors import AotError


def main(bundle: str, coordinator: str, processes: str, process: str, timeout: str, prompt: str, *more: str) -> None:
    distributed = aot.Distributed(coordinator, int(processes), int(process), float(timeout))
    with aot.load(bundle, distributed=distributed) as model:
        while True:
            result = model.generate(prompt, temperature=1.0)
            print([result.seed, *result.token_ids], flush=True)
            if not more:
                return


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AotError as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
