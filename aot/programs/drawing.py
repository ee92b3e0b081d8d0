"""How a program draws tokens: penalties, temperature, top-k, top-p, min-p and Gumbel noise, all per row and traced.

Nothing sorts the vocabulary: where a sorted list would be cut is found by bisection over the bits of float32.
Masses are added as integers, so neither the batch nor the order of a reduction can move a cut.
"""

# mypy: disable-error-code="no-any-return"
# (much of jax.numpy is untyped)

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

OPTIONS: Mapping[str, tuple[tuple[int, ...], str]] = {
    "temperature": ((), "float32"),
    "top_k": ((), "int32"),
    "top_p": ((), "float32"),
    "min_p": ((), "float32"),
    "repetition_penalty": ((), "float32"),
    "presence_penalty": ((), "float32"),
    "frequency_penalty": ((), "float32"),
    "seed": ((2,), "uint32"),
    "sequence": ((), "int32"),
}
"""The options of `sample_tokens`, one a row: their shapes after `batch`, and dtypes. `seed` is (high, low word)."""

_TINY = float(jnp.finfo(jnp.float32).tiny)


def sample_tokens(
    logits: Array,
    prompted: Array,
    counts: Array,
    generated: Array,
    options: Mapping[str, Array],
    suppressed: tuple[int, ...] = (),
    begin_suppressed: tuple[int, ...] = (),
) -> tuple[Array, Array]:
    """The next token of each row, int32 [batch], and its log-softmax over the raw logits, float32 [batch].

    logits: float32 [batch, vocab]; -inf is never drawn while the row has a finite one, NaN and +inf are undefined.
    prompted: bool [batch, vocab], the token occurs in the prompt; counts: int32 [batch, vocab], times generated.
    generated: int32 [batch], the index of the token to draw, 0 for the first; options: the arrays of OPTIONS.
    suppressed: tokens that are never drawn, begin_suppressed: that are not drawn first; constants of the program.
    """
    penalised = _penalised(logits, prompted, counts, options)
    if suppressed:
        penalised = jnp.where(_among(suppressed, logits.shape[1])[None], -jnp.inf, penalised)
    if begin_suppressed:
        barred = _among(begin_suppressed, logits.shape[1])[None] & _row(generated == 0)
        penalised = jnp.where(barred, -jnp.inf, penalised)
    best = _argmax(penalised)
    # a subnormal temperature is flushed to 0 on some devices, so it counts as 0 on all of them
    sampled = options["temperature"] >= jnp.float32(_TINY)
    token = lax.cond(
        jnp.any(sampled),
        lambda: jnp.where(sampled, _draw(penalised, generated, options), best),
        lambda: best,
    )
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1, mode="promise_in_bounds")[:, 0]
    return token, chosen - jax.nn.logsumexp(logits, axis=1)


def _among(ids: tuple[int, ...], vocab: int) -> Array:
    """Which tokens are among some, bool [vocab]. A program holds it as bits, for its constants are to stay small."""
    named = np.isin(np.arange(-(-vocab // 32) * 32), ids)
    words = jnp.asarray(np.packbits(named, bitorder="little").view("<u4"))
    bits = lax.shift_right_logical(words[:, None], lax.broadcasted_iota(jnp.uint32, (len(words), 32), 1))
    return (bits & jnp.uint32(1)).reshape(-1)[:vocab] == 1


def _argmax(values: Array) -> Array:
    """The index of each row's largest value, int32 [batch], the lowest among equals."""
    # two plain reductions: XLA would merge the noise into the one of jnp.argmax and compute it five times as slowly
    ids = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    largest = jnp.max(values, axis=1, keepdims=True)
    return jnp.min(jnp.where(values == largest, ids, jnp.int32(values.shape[1] - 1)), axis=1)


def _row(option: Array) -> Array:
    """A per-row option as [batch, 1], to stand beside [batch, vocab]."""
    return option[:, None]


def _penalised(logits: Array, prompted: Array, counts: Array, options: Mapping[str, Array]) -> Array:
    """The logits after repetition, presence and frequency penalty."""
    repetition, presence, frequency = (
        _row(options[name]) for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
    )

    def apply() -> Array:
        seen = counts > 0
        repeated = jnp.where(logits > 0, logits / repetition, logits * repetition)
        once = jnp.where(prompted | seen, repeated, logits)
        return once - jnp.where(seen, presence, jnp.float32(0)) - counts.astype(jnp.float32) * frequency

    asked = jnp.any((repetition != 1) | (presence != 0) | (frequency != 0))
    return lax.cond(asked, apply, lambda: logits)


def _draw(penalised: Array, generated: Array, options: Mapping[str, Array]) -> Array:
    """A token of each row by Gumbel-max, int32 [batch]; rows of temperature 0 get one that means nothing."""
    # the largest is taken off first: a small temperature must not overflow
    distance = penalised - jnp.max(penalised, axis=1, keepdims=True)
    scaled = distance / jnp.maximum(_row(options["temperature"]), jnp.float32(_TINY))
    narrowed = (options["top_k"] > 0) | (options["top_p"] < 1) | (options["min_p"] > 0)
    left = lax.cond(
        jnp.any(narrowed),
        lambda: jnp.where(_kept(penalised, jnp.exp(scaled), options), scaled, -jnp.inf),
        lambda: scaled,
    )
    noise = _noise(options["seed"], options["sequence"], generated, penalised.shape[1])
    return _argmax(left + noise)


def _kept(penalised: Array, weights: Array, options: Mapping[str, Array]) -> Array:
    """Which tokens top-k, top-p and min-p leave; `weights` are the probabilities relative to the best one's.

    Tokens are ranked by the penalised logits: dividing by the temperature keeps their order, but may round two
    of them to the same value.
    """
    order = _order(penalised)
    vocab = penalised.shape[1]
    top_k, top_p, min_p = (_row(options[name]) for name in ("top_k", "top_p", "min_p"))
    everything = jnp.ones_like(penalised, jnp.bool_)

    def first_k() -> Array:
        k = jnp.where((top_k < 1) | (top_k > vocab), vocab, top_k).astype(jnp.uint32)
        return _leading(order, jnp.ones_like(order, jnp.uint32), k)

    of_k = lax.cond(jnp.any(top_k > 0), first_k, lambda: everything)
    left = jnp.where(of_k, weights, jnp.float32(0))

    def first_p() -> Array:
        masses = _masses(left)
        target = jnp.ceil(top_p * _total(masses).astype(jnp.float32))
        return (top_p >= 1) | _leading(order, masses, jnp.maximum(target, jnp.float32(1)).astype(jnp.uint32))

    of_p = lax.cond(jnp.any(top_p < 1), first_p, lambda: everything)
    return of_k & of_p & (weights >= min_p)


def _total(masses: Array) -> Array:
    return jnp.sum(masses, axis=1, keepdims=True, dtype=jnp.uint32)


def _masses(weights: Array) -> Array:
    """Weights of at most 1 as integers, uint32 [batch, vocab], times a power of two that makes a row's sum near 2³⁰.

    Integers add up the same in any order, where float32 would differ between batches and devices. A token is off by
    at most half a unit, so a cut may be misplaced only where the mass lies within vocab / 2³⁰ of p, relatively
    (1.4e-4 for 152,000 tokens were all rounded one way, 1e-7 as roundings fall). Equal masses stay equal, and
    multiples of the largest one are exact: p = 0.5 keeps exactly two of four equal tokens.
    """
    vocab = weights.shape[1]
    bound = jnp.full((weights.shape[0], 1), vocab, jnp.float32)
    # each turn rounds down by less than a unit a token, so it bounds the sum; the second turn is tight
    for _ in range(2):
        scale = _scale(bound)
        bound = (_total((weights * scale).astype(jnp.uint32)) + jnp.uint32(vocab)).astype(jnp.float32) / scale
    return jnp.round(weights * _scale(bound)).astype(jnp.uint32)


def _scale(bound: Array) -> Array:
    """The power of two that takes `bound` into 2³⁰…2³¹, by its exponent bits."""
    exponent = lax.shift_right_logical(lax.bitcast_convert_type(bound, jnp.uint32), jnp.uint32(23))
    return lax.bitcast_convert_type(lax.shift_left(jnp.uint32(127 + 127 + 30) - exponent, jnp.uint32(23)), jnp.float32)


def _order(values: Array) -> Array:
    """uint32 that compare as the float32 `values` do; both zeros are one."""
    bits = lax.bitcast_convert_type(jnp.where(values == 0, jnp.float32(0), values), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits < sign, bits | sign, ~bits)


def _leading(order: Array, masses: Array, target: Array) -> Array:
    """The fewest tokens of each row, in falling `order` and lowest ids first, whose masses reach `target` [batch, 1].

    All of them where the row's masses do not; bool [batch, vocab].
    """
    edge = _edge(order, masses, target, bits=32)
    above, tied = order > edge, order == edge

    def lowest_ids() -> Array:
        vocab = order.shape[1]
        from_end = jnp.uint32(vocab - 1) - lax.broadcasted_iota(jnp.uint32, order.shape, 1)
        missing = target - _total(jnp.where(above, masses, jnp.uint32(0)))
        last = _edge(from_end, jnp.where(tied, masses, jnp.uint32(0)), missing, bits=vocab.bit_length())
        return above | (tied & (from_end >= last))

    several = jnp.any(_total(tied.astype(jnp.uint32)) > 1)
    return lax.cond(several, lowest_ids, lambda: above | tied)


def _edge(order: Array, masses: Array, target: Array, *, bits: int) -> Array:
    """The largest value, [batch, 1], such that tokens at or above it in `order` have masses of `target`; 0 if none."""

    def set_bit(index: Array, edge: Array) -> Array:
        higher = edge | lax.shift_left(jnp.uint32(1), jnp.uint32(bits - 1) - index.astype(jnp.uint32))
        reached = _total(jnp.where(order >= higher, masses, jnp.uint32(0))) >= target
        return jnp.where(reached, higher, edge)

    return lax.fori_loop(0, bits, set_bit, jnp.zeros_like(target))


def _noise(seed: Array, sequence: Array, generated: Array, vocab: int) -> Array:
    """Standard Gumbel noise, float32 [batch, vocab], finite, for a token of a sequence of a seed.

    Its bits are `jax.random.bits` of fold_in(fold_in(key(seed), sequence), generated), partitionable Threefry;
    a token's depend on nothing but these and its id.
    """
    zero = jnp.zeros_like(sequence, jnp.uint32)
    rng = _threefry((seed[:, 0], seed[:, 1]), (zero, sequence.astype(jnp.uint32)))
    # behind a barrier, or the compiler hashes the row's stream anew for each of its tokens
    high, low = lax.optimization_barrier(_threefry(rng, (zero, generated.astype(jnp.uint32))))
    ids = lax.broadcasted_iota(jnp.uint32, (seed.shape[0], vocab), 1)
    first, second = _threefry((_row(high), _row(low)), (jnp.zeros_like(ids), ids))
    # of all 32 bits, and fine near 0, where the large noise comes from: jax.random.gumbel ends at 16, this at 22.9;
    # 0 and 1, of infinite noise, are left out
    uniform = ((first ^ second).astype(jnp.float32) + jnp.float32(0.5)) * jnp.float32(2.0**-32)
    return -jnp.log(-jnp.log1p(-jnp.minimum(uniform, jnp.float32(1 - 2.0**-24))))


def _threefry(rng: tuple[Array, Array], count: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Written out because jax's own depends on the configuration: a custom call for CUDA, another stream of bits
    without `jax_threefry_partitionable`, and a loop on a CPU that takes four times as long.
    """
    parts = (*rng, rng[0] ^ rng[1] ^ jnp.uint32(0x1BD11BDA))
    first, second = count[0] + parts[0], count[1] + parts[1]
    for turn in range(5):
        for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[turn % 2]:
            first = first + second
            second = first ^ ((second << jnp.uint32(distance)) | (second >> jnp.uint32(32 - distance)))
        first = first + parts[(turn + 1) % 3]
        second = second + parts[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return first, second
