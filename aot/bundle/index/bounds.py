"""Types of the fields of an index, with all that a value may be: msgspec reads by them and refuses what is beyond.

Whatever can be counted has a bound, so that no index costs much more memory than its bytes.
"""

from typing import Annotated

from msgspec import Meta

from aot.dimensions import LARGEST

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""Bytes, operations."""
Index32 = Annotated[int, Meta(ge=0, le=LARGEST)]
"""What programs take as int32: token ids, lengths; positions in a table."""
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Number = int | float
Text = Annotated[str, Meta(max_length=1 << 12)]
Name = Annotated[str, Meta(min_length=1, max_length=1 << 10)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=255)]

Few = Meta(max_length=1 << 6)
Many = Meta(max_length=1 << 16)

Shape = Annotated[tuple[Count, ...], Few]
Texts = Annotated[tuple[Text, ...], Meta(max_length=1 << 10)]
Slots = Annotated[tuple[Name, ...], Many]

Mesh = Annotated[tuple[tuple[Name, Annotated[int, Meta(ge=1, le=1 << 12)]], ...], Few]
"""Name and size of each axis, in the order in which devices are laid out; empty for one device."""
Axes = Annotated[tuple[Name | Annotated[tuple[Name, ...], Few] | None, ...], Few]
"""The mesh axes that each axis of an array is split over; None where every device has all of it."""

Dimensions = Annotated[tuple[Name | None, ...], Few]
"""The precompile dimension that each axis of an array is, or None."""
Calls = Annotated[tuple[tuple[Index32, Index32], ...], Meta(max_length=1 << 12)]
Turns = Annotated[int, Meta(ge=1, le=1 << 16)]
"""How often calls are made."""
Ids = Annotated[tuple[Index32, ...], Many]
Matches = Annotated[tuple[tuple[Text, Index32], ...], Many]
Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
