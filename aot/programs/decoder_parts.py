"""What the phases of generation ask of a decoder family."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aot.chain import Array

if TYPE_CHECKING:
    import jax


class Decoder(Protocol):
    """The parts of a decoder as pure functions of their weights, for one platform. Compares by value."""

    @property
    def platform(self) -> str: ...
    @property
    def stepwise(self) -> bool:
        """Whether decode calls the programs of a step anew for each token, or one program has the loop inside."""

    @property
    def dtype(self) -> str: ...
    @property
    def hidden(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def windows(self) -> tuple[int | None, ...]:
        """Sliding window of each layer."""

    @property
    def sections(self) -> tuple[int, ...] | None:
        """How many rotary frequencies go by each kind of position that a token has; None where there is one kind."""

    @property
    def embed_weights(self) -> tuple[str, ...]: ...
    @property
    def head_weights(self) -> tuple[str, ...]: ...
    def weights(self) -> Mapping[str, Array]:
        """All weights by path; those of a layer below `layers/<n>/`."""

    def cache(self, batch: int, capacity: int) -> Mapping[str, Array]:
        """The cache arrays of a layer by name, batch first, with room for so many tokens a row."""

    def embed(self, weights: Mapping[str, Any], tokens: "jax.Array") -> "jax.Array":
        """Tokens [batch, length] to vectors [batch, length, hidden]."""

    def span(self, window: int | None, start: Any, lengths: Any, width: int, positions: Any = None) -> object:
        """Where tokens lie and what they see, for rows that hold `start` tokens and get `lengths` of `width` more.

        With sections `positions` [batch, sections, width] say how they are turned.
        """

    def block(self, weights: Mapping[str, Any], x: Any, cache: Mapping[str, Any], span: Any) -> tuple[Any, Any]:
        """One layer, by its weights' paths below `layers/<n>/`: x and cache after it."""

    def head(self, weights: Mapping[str, Any], x: "jax.Array") -> "jax.Array":
        """Vectors [rows, hidden] to logits [rows, vocab] in float32."""
