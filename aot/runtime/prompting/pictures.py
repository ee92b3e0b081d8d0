"""The pictures of a request: taken from wherever they lie, checked by their header, then decoded and put upright."""

import base64
import importlib
import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib import parse

import numpy as np

from aot.errors import InputError, shown
from aot.runtime.prompting import png

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

MOST_PIXELS = 89_478_485
"""Pixels of a picture: 256 MiB in RGB, where Pillow too begins to suspect a decompression bomb."""
MOST_BYTES = 1 << 29
"""Bytes of a picture's file."""
LONGEST = 200
"""Times that a picture may be as long as wide, as for the processor of Qwen2-VL."""

_KINDS = {
    "Png": rb"\x89PNG\r\n\x1a\n",
    "Jpeg": rb"\xff\xd8\xff",
    "WebP": rb"RIFF....WEBP",
    "Gif": rb"GIF8[79]a",
    "Bmp": rb"BM",
    "Tiff": rb"II[*+]\x00|MM\x00[*+]",
}
"""The kinds of files as Pillow's classes are named, and how such a file begins."""
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names for the pixels that are taken: those of 8 bits for each channel that turn into RGB."""
_DAMAGED = "is damaged or cut off"
_REASONS = {"not identified by this driver": "a side of 0 pixels, or no size at all"}
"""What Pillow says of a header that it could read, in other words."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")


@dataclass(frozen=True, eq=False)
class Carried:
    """A picture as a conversation carries it: with its pixels, for a path would have any file of this machine read."""

    picture: Any


def open_picture(given: Any, place: str) -> "Image":
    """A picture, decoded and upright: of a path, a data URL, the bytes of a file, a Pillow image or an array.

    An array is uint8 [height, width, 3]. `place` begins the message of the InputError for what is none.
    """
    from PIL import Image, ImageOps

    if isinstance(given, Carried):
        given = _held(given.picture, place)
    if isinstance(given, Image.Image):
        picture = given
    elif isinstance(given, np.ndarray):
        picture = Image.fromarray(_checked(given, place))
    else:
        data = _bytes(given, place)
        picture = _parsed(data, place)
    _check_header(picture, place)
    if picture is not given and picture.format == "PNG":
        _tried(lambda: png.check_rows(data), _DAMAGED, place)
    return _tried(lambda: ImageOps.exif_transpose(picture), _DAMAGED, place)


def _held(given: object, place: str) -> object:
    """What is carried, which is no path and no address."""
    if not isinstance(given, str | os.PathLike):
        return given
    text = os.fsdecode(given)
    url = _URL.match(text)
    scheme = url[1].lower() if url else ""
    if scheme == "data":
        return text
    if url and url[2] and scheme != "file":
        raise InputError(f"{place}: is on another machine, {shown(text)}; fetch it, and give a data URL")
    raise InputError(
        f"{place}: is a path, {shown(text)}, where a conversation must hold the picture; give a data URL, or "
        "{'type': 'image'} and the file beside the conversation, with `images` or --image"
    )


def _tried(step: Callable[[], _T], trouble: str, place: str) -> _T:
    from PIL import Image

    try:
        return step()
    except Image.DecompressionBombError as error:
        raise InputError(f"{place}: is above the limit of {MOST_PIXELS} pixels; scale it down") from error
    except Exception as error:  # for damaged files Pillow passes on whatever its codecs raise
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = _REASONS.get(reason, reason)
        raise InputError(f"{place}: {trouble} ({reason}); give a whole file") from error


def _parsed(data: bytes, place: str) -> "Image":
    """A picture of which the header has been read."""
    _check_bytes(len(data), place)
    kind = next((kind for kind, start in _KINDS.items() if re.match(start, data, re.DOTALL)), None)
    if kind is None:
        known = ", ".join(kind.upper() for kind in _KINDS)
        begins = f"begins with {data[:16]!r}" if data else "is empty"
        raise InputError(f"{place}: is no picture, it {begins}; give one of {known}")
    # Image.open would try all of its many formats, and warn of what is refused below
    reader = getattr(importlib.import_module(f"PIL.{kind}ImagePlugin"), f"{kind}ImageFile")
    return _tried(lambda: reader(io.BytesIO(data)), f"has a damaged {kind.upper()} header", place)


def _check_header(picture: "Image", place: str) -> None:
    width, height = picture.size
    if not (width and height):
        raise InputError(f"{place}: is {width} x {height} pixels; give a picture that has some")
    if width * height > MOST_PIXELS:
        raise InputError(f"{place}: is {width} x {height} pixels, above the limit of {MOST_PIXELS}; scale it down")
    if max(width, height) > LONGEST * min(width, height):
        raise InputError(f"{place}: is {width} x {height} pixels, above {LONGEST} times as long as wide; cut it")
    if picture.mode not in _MODES:
        raise InputError(
            f"{place}: has pixels of Pillow's mode {picture.mode!r}, known are {', '.join(_MODES)}; "
            "convert it to 8 bits for each channel"
        )
    # MPO is what telephones write: a photograph, and the same one smaller
    frames = 1 if picture.format == "MPO" else _tried(lambda: getattr(picture, "n_frames", 1), _DAMAGED, place)
    if frames > 1:
        raise InputError(f"{place}: has {frames} frames, an animation or several pages; give one of them by itself")


def _bytes(given: Any, place: str) -> bytes:
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, os.PathLike):
        return _read(os.fspath(given), place)
    if not isinstance(given, str):
        raise InputError(
            f"{place}: must be a path, a data URL, the bytes of a file, a Pillow image or an array, "
            f"got {type(given).__name__}"
        )
    url = _URL.match(given)
    scheme = url[1].lower() if url else ""
    if scheme == "data":
        return _inline(given, place)
    if scheme == "file":
        return _read(_local(given, place), place)
    if url and url[2]:
        raise InputError(f"{place}: is on another machine, {given!r:.80}; fetch it, and give its path or a data URL")
    return _read(given, place)


def _read(path: Any, place: str) -> bytes:
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{place}: {os.fsdecode(path)!r:.80} is no regular file; give one, or a data URL")
            _check_bytes(status.st_size, place)
            return file.read(MOST_BYTES + 1)  # it may grow
    except (OSError, ValueError) as error:  # a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{place}: {os.fsdecode(path)!r:.80}: {reason}; give a path or a data URL") from error


def _at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for a pipe's writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_bytes(count: int, place: str) -> None:
    if count > MOST_BYTES:
        raise InputError(f"{place}: has more than {MOST_BYTES} bytes; give a smaller file")


def _inline(url: str, place: str) -> bytes:
    """The bytes in a data URL."""
    head, comma, body = url.partition(",")
    if not (comma and head.lower().endswith(";base64")):
        raise InputError(f"{place}: a data URL must begin as 'data:image/png;base64,', got {url!r:.80}")
    _check_bytes(len(body) // 4, place)  # be every character percent-encoded
    try:
        return base64.b64decode(b"".join(parse.unquote_to_bytes(body).split()), validate=True)
    except ValueError as error:
        raise InputError(f"{place}: the data URL is no base64 ({error}), {url!r:.80}; encode the file again") from error


def _local(url: str, place: str) -> str:
    """The path in a file URL."""
    found = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/)[^?#]*)", url, re.IGNORECASE)
    if not found:
        raise InputError(f"{place}: a file URL must begin as 'file:///', and name no other machine, got {url!r:.80}")
    return parse.unquote(found[1])


def _checked(array: "np.ndarray[Any, Any]", place: str) -> "np.ndarray[Any, Any]":
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"{place}: an array must be uint8 [height, width, 3], got {array.dtype} {list(array.shape)}; "
            "convert it, or give a Pillow image"
        )
    return array
