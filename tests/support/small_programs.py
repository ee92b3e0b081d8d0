"""A table of small programs, compiled for one target as a worker of the builder compiles, and the digest of each.

    python small_programs.py TARGET [NAME …]     TARGET as in a manifest, as JSON

prints `{"machine": the CPU that XLA sees, "amd": whether it has SSE4a, "digests": {name: digest}}`. `CPUID_AS=CPU`
disguises this one first; under an emulator it is whatever that emulates. Together they have the intrinsics, dtypes,
reductions, sorts, scatters, loops and spellings of products that programs of ours and of users have.
"""

import json
import os
import sys
import tempfile

ELEMENTS = (
    "tanh", "sinh", "cosh", "asinh", "acosh", "atanh", "sin", "cos", "tan", "asin", "acos", "atan", "exp", "exp2",
    "expm1", "log", "log1p", "logistic", "sqrt", "rsqrt", "cbrt", "erf", "erfc", "erf_inv", "lgamma", "digamma",
    "bessel_i1e", "floor", "ceil", "sign", "abs", "is_finite", "square", "integer_pow",
)  # fmt: skip
NARROW = ("tanh", "exp", "log", "logistic", "rsqrt", "sqrt", "erf", "sin", "floor")
WORDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
BY_ROWS = (((1,), (1,)), ((), ()))


def table():
    """Each program: its function, and shape and dtype of each argument."""
    import jax
    import jax.numpy as jnp
    from jax import lax, nn

    from aot.programs.product import Matrix, apply_linear

    def each(names):
        powers = {"integer_pow": lambda x: lax.integer_pow(x, 3)}
        return lambda x: {name: powers.get(name, getattr(lax, name, None))(x) for name in names}

    def product(x, w):
        return apply_linear(x, Matrix(w), None, "cpu")

    def int8_product(x, w, s):
        return apply_linear(x, Matrix(w, s), None, "cpu")

    def wide(dtype, preferred):
        return lambda x, w: lax.dot_general(x.astype(dtype), w.astype(dtype), BY_ROWS, preferred_element_type=preferred)

    def words(x):
        return [x >> 3, (x << 1) + 1, x * x, lax.population_count(x), lax.clz(x), x // 7, x % 5, jnp.minimum(x, 9), ~x]

    def conversions(x):
        names = ("bfloat16", "float16", "int8", "uint8", "int32", "float8_e4m3fn", "float8_e5m2")
        return [x.astype(name) for name in names] + [
            lax.reduce_precision(x, 5, 7),
            lax.bitcast_convert_type(x, "int32"),
        ]

    def reductions(x):
        found = [f(x, axis) for f in (jnp.sum, jnp.max, jnp.argmax, jnp.argmin, jnp.prod) for axis in (0, 1)]
        return [*found, jnp.sum(x), jnp.any(x > 1), jnp.all(x > 0, 1), jnp.mean(x, 1), jnp.var(x, 0)]

    def scans(x):
        return [f(x, axis=1) for f in (lax.cumsum, lax.cummax, lax.cumlogsumexp)]

    def places(x, i):
        row = lax.dynamic_slice(x, (i[0], 0), (1, x.shape[1]))
        found = [x[i], x.at[i].add(1), x.at[i].set(0), x.at[i].max(2), row, lax.dynamic_update_slice(x, row, (i[1], 0))]
        return [*found, jax.ops.segment_sum(x, i, 8), nn.one_hot(i, 8), jnp.where(x > 0, x, i[:, None]), x[::-1].T]

    def attention(q, k, v, lengths):
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) / 4
        mask = jnp.arange(k.shape[2])[None, None, None] < lengths[:, None, None, None]
        return jnp.einsum("bhqk,bhkd->bhqd", nn.softmax(jnp.where(mask, scores, -jnp.inf)), v)

    def norms(x, w):
        rms = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * w
        layer = (x - jnp.mean(x, -1, keepdims=True)) * lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5) * w
        return [rms, layer, nn.softmax(x), nn.log_softmax(x), nn.logsumexp(x, -1)]

    def rotary(x, positions):
        angles = positions[:, None] / 10000.0 ** (jnp.arange(8) / 8)
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate(
            [a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)], -1
        )

    def small_while(x):
        return lax.while_loop(lambda s: jnp.sum(s[1]) < 100, lambda s: (s[0] + 1, s[1] * 2 + 1), (jnp.int32(0), x))[1]

    def large_while(x, w):
        return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w) + s[0]), (0, x))[1]

    def bisection(x):
        def halved(_, limits):
            low, high = limits
            middle = (low + high) // 2
            return jnp.where(jnp.sum(x > middle) > 9, middle, low), jnp.where(jnp.sum(x > middle) > 9, high, middle)

        return lax.fori_loop(0, 8, halved, (jnp.int32(0), jnp.int32(99)))

    def steps(x):
        _, found = lax.scan(lambda carry, row: (carry + row, jnp.tanh(carry)), x[0], x)
        return found, lax.map(lambda row: jnp.sort(row), x), lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)

    def draws(key, logits):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), 7)
        noise = jax.random.gumbel(key, logits.shape)
        return noise, jnp.argmax(logits + noise, -1), jax.random.uniform(key, (9,)), jax.random.normal(key, (9,))

    def pooled(x, kernel):
        made = lax.conv_general_dilated(x, kernel, (4, 4), "VALID")
        return made, lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    f32, bf16, f16, i8 = "float32", "bfloat16", "float16", "int8"
    rows, weight, square = ((2, 96), f32), ((64, 96), f32), ((64, 64), f32)
    found = {
        "elements": (each(ELEMENTS), ((64, 64), f32)),
        "powers": (lambda x, y: [x**y, lax.atan2(x, y), lax.rem(x, y), lax.nextafter(x, y), x / y], square, square),
        "conversions": (conversions, square),
        "from narrow": (lambda x, y: [x.astype(f32), y.astype(f32), x.astype(f16)], ((999,), bf16), ((999,), f16)),
        "reductions": (reductions, ((100, 64), f32)),
        "columns": (lambda x: x.sum(0), ((1000, 64), f32)),
        "scans": (scans, ((8, 33), f32)),
        "fourier": (lambda x: jnp.abs(jnp.fft.rfft(x)), ((8, 64), f32)),
        "places": (places, ((16, 24), f32), ((16,), "int32")),
        "attention": (attention, *[((2, 4, 9, 16), f32)] * 3, ((2,), "int32")),
        "norms": (norms, ((8, 256), f32), ((256,), f32)),
        "rotary": (rotary, ((9, 16), f32), ((9,), f32)),
        "gates": (lambda x: [nn.silu(x), nn.gelu(x), nn.gelu(x, False), nn.softplus(x)], ((7, 99), f32)),
        "small while": (small_while, ((2, 3), f32)),
        "large while": (large_while, ((16, 64), f32), square),
        "bisection": (bisection, ((1000,), "int32")),
        "steps": (steps, ((6, 50), f32)),
        "draws": (draws, ((2,), "uint32"), ((3, 500), f32)),
        "pooled": (pooled, ((1, 3, 16, 16), f32), ((8, 3, 4, 4), f32)),
        "top k": (lambda x: [*lax.top_k(x, 8), jnp.argsort(x), lax.sort((x, -x), num_keys=1)[1]], ((3, 200), f32)),
        "x @ w": (lambda x, w: x @ w, ((1, 300), f32), ((300, 77), f32)),
        "x @ w.T": (lambda x, w: x @ w.T, ((1, 96), bf16), ((256, 96), bf16)),
        "float32 row": (product, ((1, 96), f32), weight),
        "float32 rows": (product, rows, weight),
        "bfloat16 row": (product, ((1, 96), bf16), ((64, 96), bf16)),
        "bfloat16 rows": (product, ((2, 96), bf16), ((64, 96), bf16)),
        "bfloat16 to bfloat16": (wide(bf16, bf16), rows, weight),
        "float16 rows": (product, ((2, 96), f16), ((64, 96), f16)),
        "float16 to float32": (wide(f16, f32), rows, weight),
        "int8 row": (int8_product, ((1, 96), f32), ((64, 96), i8), ((64,), f32)),
        "int8 rows": (int8_product, ((4, 96), bf16), ((64, 96), i8), ((64,), f32)),
    }
    for dtype in (bf16, f16):
        found[f"{dtype} elements"] = each(NARROW), ((64, 64), dtype)
        found[f"{dtype} reductions"] = reductions, ((50, 64), dtype)
        found[f"{dtype} norms"] = norms, ((8, 256), dtype), ((256,), dtype)
    for dtype in (f32, bf16, f16, "int32"):
        found[f"{dtype} sort"] = lax.sort, ((1000,), dtype)
    for dtype in WORDS:
        found[f"{dtype} words"] = words, ((1000,), dtype)
    return found


def digest(function, arguments, devices, target):
    """Of the canonical bytes, by way of a stored program."""
    import jax
    from jax import export

    import aot.digest
    from aot.builder.compiling import compile, cpu

    given = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in arguments]
    stored = bytes(export.export(jax.jit(function), platforms=["cpu"])(*given).serialize())
    return aot.digest.digest_of(cpu.compiled(compile.lowered_for(stored, (), devices), target).data)


def main(target, names):
    from aot.builder import settings
    from aot.builder.compiling import compile, cpu
    from aot.targets import target_of

    target = target_of(target)
    os.environ.update(compile.environment(target), JAX_PLATFORMS="cpu")
    if name := os.environ.get("CPUID_AS"):
        import disguise

        disguise.put_on(name)
    settings.apply()
    programs = table()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # of a worker's own, where it leaves files
        devices = cpu.devices(target, 1)
        rows = {name: programs[name] for name in names or programs}
        made = {name: digest(function, arguments, devices, target) for name, (function, *arguments) in rows.items()}
        found = {**seen(), "digests": made}
        os.chdir("/")
    print(json.dumps(found))


def seen():
    """What XLA takes this CPU for, and what it finds that AMD's have, by LLVM's names."""
    import jax

    from aot.builder.compiling import canonical

    free = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((8,), "float32")).compile()
    found = canonical.compiled_for(bytes(free.runtime_executable().serialize()))
    return {"machine": found.cpu, "amd": "+sse4a" in found.features}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
