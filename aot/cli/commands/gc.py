"""`aot gc`."""

import re
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import click

from aot.builder.reuse import cache, eviction
from aot.cli import output


class Quantity(click.ParamType[float]):
    """A number with a unit: `500M`, `12h`."""

    def __init__(self, name: str, units: dict[str, int]) -> None:
        self.name = name
        self._units = units

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-zA-Z]*)", value)
        if found is None or (unit := self._unit(found[2], found[1])) is None:
            self.fail(
                f"{value!r} is no {self.name}; write a number and one of {', '.join(self._units)}", parameter, context
            )
        return int(Decimal(found[1]) * unit)

    def _unit(self, name: str, number: str) -> int | None:
        """A number alone has no meaning, lest 2 be taken for two bytes; but nothing is nothing."""
        return 1 if not name and float(number) == 0 else self._units.get(name)


class SizeType(Quantity):
    """Bytes: `2G` and `2GiB` are 2 · 1024³, `2GB` is 2 · 1000³; in capitals or not."""

    def __init__(self) -> None:
        powers = {unit: power for power, unit in enumerate("KMGT", 1)}
        binary = {f"{unit}{ending}": 1024**power for ending in ("", "iB") for unit, power in powers.items()}
        super().__init__("size", {**binary, **{f"{unit}B": 1000**power for unit, power in powers.items()}, "B": 1})
        self._folded = {name.lower(): factor for name, factor in self._units.items()}

    def _unit(self, name: str, number: str) -> int | None:
        return self._folded.get(name.lower(), super()._unit(name, number))


SIZE_TYPE = SizeType()
AGE = Quantity("age", {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800})


@click.command("gc", epilog=output.examples_epilog("aot gc --dry-run", "aot gc --max-size 2G --older-than 30d"))
@click.option(
    "--max-size", metavar="SIZE", type=SIZE_TYPE, help="Keep at most so much (500M, 1.5GiB, 2GB), what was used last."
)
@click.option("--older-than", metavar="AGE", type=AGE, help="Remove what was not used for so long (12h, 30d).")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be.")
@output.as_json
def command(max_size: int | None, older_than: int | None, dry_run: bool, as_json: bool) -> None:
    """Make room in the build cache.

    Leftovers of killed builds and damaged entries are removed whatever is asked for. Bundles hold copies and are never
    touched; a build that is under way makes again what it misses.
    """
    root = cache.location()
    swept = eviction.sweep(root, eviction.Rule(max_size, older_than), dry_run)
    if as_json:
        output.print_document(asdict(swept))
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {output.counted(swept.removed, 'files')}, {output.spelled_size(swept.removed_bytes)}")
    click.echo(f"kept {output.counted(swept.kept, 'files')}, {output.spelled_size(swept.kept_bytes)}, in {root}")
