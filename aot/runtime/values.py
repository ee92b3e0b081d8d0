"""The values of inputs: what the phases of a language model can take, whose programs would take any without a word."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aot import sampling
from aot.errors import InputError

if TYPE_CHECKING:
    from aot.runtime.fitting.entries import Entry

HostArray = np.ndarray[Any, Any]
HostArrays = Mapping[str, HostArray]


def as_array(value: Any, phase: str, name: str) -> HostArray:
    """An input as an array. Raises InputError for what is none."""
    if type(value) is np.ndarray:
        return value
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        cause = str(error).split(". ")[0]
        raise InputError(f"phase {phase}: input {name}: is no array ({cause}); pad its rows to one length") from error


def check_values(
    entry: "Entry", given: HostArrays, made: Mapping[str, Any], held: HostArray | None, forked: int | None
) -> None:
    """Raises InputError for values that a language model's entry cannot take.

    `given` are inputs as the caller gave them, `made` in the entry's dtypes, `held` the tokens in each row of the state
    that they continue, `forked` the rows of the state that a fork reads.
    """
    for name, found in given.items():
        if name in sampling.SAMPLING_FIELDS:
            for value in set(found.ravel().tolist()):
                sampling.check_option(name, value)
        elif found.dtype.kind not in "biu" and not np.isfinite(made[name]).all():
            raise InputError(f"phase {entry.phase}: input {name}: has a value that is not a finite {made[name].dtype}")
    if "tokens" in given:
        _check_tokens(entry, given, held)
    if "rows" in given and forked is not None:
        _check_within(entry, "rows", given["rows"], -1, forked - 1, "the rows of the source, -1 for none of them")


def _check_tokens(entry: "Entry", given: HostArrays, held: HostArray | None) -> None:
    tokens, lengths = given["tokens"], given["lengths"]
    width, index = tokens.shape[1], entry.index
    _check_within(entry, "lengths", lengths, 0, width, "the tokens given")
    if held is not None:
        _check_room(entry, held[: len(lengths)], lengths.astype(np.int64))
    assert index.generation is not None
    used = np.where(np.arange(width) < lengths[:, None], tokens, 0)
    _check_within(entry, "tokens", used, 0, index.generation.vocab_size - 1, "the vocabulary")
    if index.images is not None and "embeddings" not in given and (used == index.images.token).any():
        raise InputError(
            f"phase {entry.phase}: input tokens: has the image token {index.images.token}, and no `embeddings` are "
            "given; give those that `encode` made"
        )


def _check_room(entry: "Entry", held: HostArray, lengths: HostArray) -> None:
    slots = entry.combo.max_length
    if slots is not None and (full := np.flatnonzero(held + lengths > slots)).size:
        row = int(full[0])
        raise InputError(
            f"phase {entry.phase}: input lengths: row {row} holds {held[row]} tokens and gets {lengths[row]} more, it "
            f"has {slots} slots; build with a larger max_length"
        )


def _check_within(entry: "Entry", name: str, found: HostArray, least: int, most: int, what: str) -> None:
    wrong = (found < least) | (found > most)
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        where = f"phase {entry.phase}: input {name}"
        raise InputError(f"{where}: has {found[place]} at {list(place)}, allowed are {least} to {most}, {what}")
