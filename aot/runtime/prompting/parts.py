"""Images among the parts of a conversation's messages: taken out, so that a chat template sees only where they stand.

A part is {"type": "image_url", "image_url": {"url": …}} or {"type": "image_url", "image_url": "…"} as OpenAI spells
it, or {"type": "image"} with one of `image`, `path` and `url` as transformers does; with none of them it is a place
for one of the images that come beside the conversation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aot.errors import InputError, shown

if TYPE_CHECKING:
    from aot.runtime.prompting.pictures import Carried

PLACE = {"type": "image"}
"""What a template sees of an image."""

_KINDS = ("image", "image_url")
_SOURCES = ("image", "path", "url")
_DETAIL = "detail"  # OpenAI's; here the shape follows from the picture

Messages = Sequence[Mapping[str, Any]]


def take_images(messages: Messages, beside: Sequence[Any], place: str) -> tuple[list[Any], list[Any]]:
    """The conversation with PLACE for every image, and the images in their order, those from `beside` filled in.

    Where no part is a place for these, they stand before the text of the last message of a user. Raises InputError,
    whose message begins with `place`; what else is wrong with a message is left for others to say.
    """
    places = sum(part == PLACE for part in _images(messages))
    if beside and not places:
        messages, places = _before_the_text(messages, len(beside), place), len(beside)
    if len(beside) != places:
        raise InputError(f"{place}: {len(beside)} images for {places} parts {PLACE}; give one for each")
    rest, found = iter(beside), list[Any]()

    def take(part: Mapping[str, Any]) -> Mapping[str, Any]:
        found.append(next(rest) if part == PLACE else _carried(part, f"{place}: image {len(found)}"))
        return PLACE

    return [_changed(message, take) for message in messages], found


def _images(messages: Messages) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        yield from filter(_is_image, _parts(message))


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _KINDS


def _changed(message: Mapping[str, Any], take: Callable[[Mapping[str, Any]], Any]) -> Mapping[str, Any]:
    if not any(map(_is_image, _parts(message))):
        return message
    return {**message, "content": [take(part) if _is_image(part) else part for part in _parts(message)]}


def _before_the_text(messages: Messages, count: int, place: str) -> Messages:
    last = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=None)
    if last is None:
        raise InputError(f"{place}: has no message of a user to put the images into; give parts {PLACE}")
    content = messages[last].get("content")
    follows = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(follows, list | tuple):
        return messages
    changed = {**messages[last], "content": [PLACE] * count + list(follows)}
    return [*messages[:last], changed, *messages[last + 1 :]]


def _carried(part: Mapping[str, Any], place: str) -> "Carried":
    from aot.runtime.prompting.pictures import (
        Carried,  # which takes a while to import, and few conversations have images
    )

    return Carried(_source(part, place))


def _source(part: Mapping[str, Any], place: str) -> object:
    """What a part says of where its picture lies."""
    if part["type"] == "image_url":
        return _url(part, place)
    if len(part) != 2 or not part.keys() & set(_SOURCES):
        raise InputError(
            f"{place}: beside its type an image has one of {', '.join(_SOURCES)}, got {', '.join(map(str, part))}"
        )
    return next(value for name, value in part.items() if name != "type")


def _url(part: Mapping[str, Any], place: str) -> str:
    given = part.get("image_url")
    inner = given if isinstance(given, Mapping) else {"url": given}
    unknown = [*(part.keys() - {"type", "image_url"}), *(inner.keys() - {"url", _DETAIL})]
    if unknown or not isinstance(inner.get("url"), str):
        raise InputError(
            f'{place}: must be {{"type": "image_url", "image_url": {{"url": …}}}}, got {shown(part)}; give a data URL'
        )
    return str(inner["url"])
