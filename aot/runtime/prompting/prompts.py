"""Prompts as the programs take them: token ids, and the pixels of the images among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aot import vision
from aot.errors import InputError, NoEntryError
from aot.runtime import requests
from aot.runtime.requests import Image, Prepared, Prompt
from aot.vision import Size

if TYPE_CHECKING:
    from aot.runtime.prompting.recipe import Recipe
    from aot.runtime.prompting.text import TextTokenizer


@dataclass(frozen=True)
class Reader:
    """What a bundle makes of prompts."""

    text: "Callable[[], TextTokenizer | None]"
    """Gives the bundle's tokenizer, with the image token reserved."""
    vocab_size: int
    recipe: "Recipe | None" = None
    """None where it takes no images."""
    sizes: Sequence[Size] = ()
    """The image shapes of the entries that may serve a request."""
    template: Mapping[str, Any] | None = None
    """What the chat template takes beside a conversation."""

    def read(self, prompt: Prompt, position: int, beside: Sequence[Any] = ()) -> Prepared:
        """A prompt with the images in it and those that come beside it. Raises InputError, NoEntryError."""
        place = f"request: prompt {position}"
        given: Any = prompt
        if requests.is_conversation(prompt):
            from aot.runtime.prompting import parts  # as the tokenizer, when a text is read

            given, beside = parts.take_images(given, beside, place)
        if self.recipe is None:
            if beside:
                raise InputError(f"{place}: has {len(beside)} images, and this bundle takes text alone; leave them out")
            return Prepared(self._tokens(given, position))
        images = self.recipe.images
        first = (*images.before, images.token, *images.after) * len(beside)
        ids = self._tokens(given, position, first)
        if (found := ids.count(images.token)) != len(beside):
            who = "the chat template of this bundle" if requests.is_conversation(prompt) else "it"
            raise InputError(
                f"{place}: has {len(beside)} images, {who} gives {found} image tokens ({images.token}); "
                "there must be one for each"
            )
        shown = tuple(self._image(picture, f"{place}: image {n}") for n, picture in enumerate(beside))
        return Prepared(_spread(ids, images.token, [image.tokens for image in shown]), shown)

    def _tokens(self, prompt: Prompt, position: int, first: Sequence[int] = ()) -> list[int]:
        return requests.encode_prompt(prompt, position, self.text, self.vocab_size, first, self.template)

    def _image(self, given: Any, place: str) -> Image:
        from aot.runtime.prompting import pictures

        assert self.recipe is not None
        if not self.sizes:
            raise NoEntryError(f"{place}: no entry with these props takes images; add one to precompile and rebuild")
        picture = pictures.open_picture(given, place)
        images = self.recipe.images
        size = vision.choose_size(self.sizes, Size(picture.height, picture.width), images.fit)
        return Image(size, images.tokens(size), self.recipe.pixels(picture, size, place))


def _spread(ids: Sequence[int], token: int, counts: Sequence[int]) -> list[int]:
    """The ids with each image token as often as its image has embeddings."""
    rest = iter(counts)
    return [each for id in ids for each in [id] * (next(rest) if id == token else 1)]
