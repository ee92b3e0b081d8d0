"""The image shapes of a plan, as `aot plan` shows them: the tokens of each, and how they fill a prefill."""

from typing import Any

from aot import vision
from aot.cli import output
from aot.plan import Plan, images


def shapes_document(plan: Plan) -> dict[str, Any]:
    """The image shapes for scripts; nothing for a plan without."""
    known = images.images_of(plan)
    if known is None or not images.sizes(plan):
        return {}
    return {"images": [{**size._asdict(), "tokens": known.tokens(size)} for size in images.sizes(plan)]}


def show_shapes(plan: Plan) -> None:
    """A row for each image shape: its tokens, and how many such images each prefill length holds beside a text."""
    known = images.images_of(plan)
    if known is None or not images.sizes(plan):
        return
    held = {(vision.image_shape(combo), combo.prefill_length) for combo in plan.combos}
    lengths = sorted({length for size, length in held if size and length})
    columns = ("tokens", "in a prompt", *(f"prefill {length}" for length in lengths))
    table = output.empty_table("image", *columns, right=columns)
    for size in images.sizes(plan):
        taken = images.around(known, size)
        fills = (_fill(length, taken) if (size, length) in held else "" for length in lengths)
        table.add_row(str(size), str(known.tokens(size)), str(taken), *fills)
    output.console().print(table)


def _fill(length: int, taken: int) -> str:
    number = (length - 1) // taken
    return f"{number} and {length - number * taken} of text"
