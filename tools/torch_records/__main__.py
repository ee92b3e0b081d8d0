"""The program that tools/oracles runs, where torch and transformers are."""

import argparse
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import comparing
import making
import torch
from checkpoints import RecordError
from oracles import records
from transformers.utils import logging


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    print(", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers")), flush=True)
    failed = [name for name in options.cases or records.find() if not ran(name, options.write)]
    if failed:
        say(f"differ: {', '.join(failed)}; where that is meant, --write replaces the records")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/oracles", description="Records of tests/oracles, made anew with torch."
    )
    parser.add_argument("--write", action="store_true", help="replace the records; without it, compare with them")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="such as text/llama; default: all")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(records.find()):
        parser.error(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(records.find())}")
    return options


def ran(name: str, write: bool) -> bool:
    """Makes a record anew, and replaces the old one or tells how it differs; whether all is well."""
    recorded = records.read(name)
    try:
        made = making.made(recorded)
    except RecordError as error:
        say(f"{name}: {error}")
        return False
    if write:
        records.write(made)
        print(f"{name}: written", flush=True)
        return True
    found = comparing.differences(recorded, made)
    for difference in found:
        say(f"{name}: {difference.place}: {difference.text}")
    if not found:
        print(f"{name}: as recorded, floats within {comparing.largest(recorded, made):.1e}", flush=True)
    return not found


def say(text: str) -> None:
    print(f"tools/oracles: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
