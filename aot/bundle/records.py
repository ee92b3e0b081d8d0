"""The records of a bundle's index: what the config blob says, as frozen values.

Lists that repeat across entries are stored once and named by position: `Index.programs`, `Index.bindings` and
`Index.combos` are tables, and a call is the pair (program, binding). What is a `Sequence` here is read row by row as
it is used, so that opening a bundle does not take longer for programs that are not.

`aot.bundle.codec` reads them back by these type hints: an `int` is at least 0, and a number that may be negative is a
`float`, for which an integer will do; `Any` stands for what JSON can say, with tuples for lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aot.vision import Images

# Format versions:
# 1: the first.
# 2: `generation.sampling` may have the names of `aot.sampling.RESTRICTIONS`.
FORMAT = 2

Axes = tuple[str | tuple[str, ...] | None, ...]
"""For each axis of an array the mesh axes that it is split over; None where every device has all of it."""

Mesh = tuple[tuple[str, int], ...]
"""Name and size of each axis, in the order in which devices are laid out; empty for one device."""


@dataclass(frozen=True)
class ArgumentRecord:
    """One argument or result of a program: its place in the tuple is its place in the executable's call."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sharding: Axes
    donated: bool = False


@dataclass(frozen=True)
class BlobRecord:
    """Some stored bytes: digest and size."""

    digest: str
    bytes: int


@dataclass(frozen=True)
class ExecutableRecord:
    """A program compiled for one target."""

    target: Mapping[str, Any]
    """As in the manifest: {"cpu": {"isa": "avx2", "threads": 32}}."""
    digest: str
    bytes: int
    flags: tuple[str, ...]
    """XLA's options when it was compiled."""
    compiler: Mapping[str, str]
    """Versions of all that compiled it: {"jaxlib": "0.10.2"}. What loads it must be of the same."""
    requires: Mapping[str, Any]
    """What the machine must have: {"machine": "x86_64", "features": ["avx", …]} in the kernel's names, or devices."""
    memory: Mapping[str, int]
    """XLA's own figures in bytes: arguments, outputs, aliased, temporaries, code."""
    cost: Mapping[str, int]
    """XLA's own counts, of each loop one turn: flops, transcendentals, bytes_accessed; empty where it has none."""
    tuning: BlobRecord | None = None
    """What XLA chose on the device, which this was compiled by; None where its cost model chose."""


@dataclass(frozen=True)
class ProgramRecord:
    """A portable program (`jax.export`) with its calling contract."""

    digest: str
    bytes: int
    name: str
    platform: str
    mesh: Mesh
    arguments: tuple[ArgumentRecord, ...]
    results: tuple[ArgumentRecord, ...]
    executables: tuple[ExecutableRecord, ...]


@dataclass(frozen=True)
class BindingRecord:
    """The slots of a call: one for each argument and each result, in the contract's order."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class PhaseRecord:
    """For each input and output of a phase, which axis is which precompile dimension."""

    inputs: Mapping[str, tuple[str | None, ...]]
    outputs: Mapping[str, tuple[str | None, ...]]
    partial: tuple[str, ...]
    """Inputs that the entries of some combos do not take."""


@dataclass(frozen=True)
class ChainRecord:
    """The calls of an entry on one platform and mesh, as positions in `Index.programs` and `Index.bindings`."""

    platform: str
    mesh: Mesh
    calls: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class EntryRecord:
    """One phase of one combo."""

    combo: int
    phase: str
    chains: Sequence[ChainRecord]


@dataclass(frozen=True)
class ComboRecord:
    """A combo's key and its dimensions (those of `PreCompileConfig`)."""

    key: str
    dimensions: Mapping[str, Any]


@dataclass(frozen=True)
class WeightRecord:
    """One weight and the position of the blob in `WeightsRecord.blobs` that holds it."""

    dtype: str
    shape: tuple[int, ...]
    blob: int


@dataclass(frozen=True)
class WeightsRecord:
    blobs: tuple[BlobRecord, ...]
    arrays: Mapping[str, WeightRecord]


@dataclass(frozen=True)
class GenerationRecord:
    """What a language model's requests default to. Absent for other models."""

    vocab_size: int
    max_new_tokens: int
    num_return_sequences: int | Mapping[str, int]
    """A number, or one for each key."""
    streaming_chunks: int
    logits: str
    eos_token_id: tuple[int, ...]
    pad_token_id: int
    bos_token_id: int | None
    sampling: Mapping[str, Any]
    """Numbers, and where a checkpoint restricts its texts lists, as `aot.sampling.recorded` gives them."""


@dataclass(frozen=True)
class PartitionRecord:
    """On one mesh, how many arrays each partition rule was the first to match, by its pattern, in order.

    How arrays lie in the end, contracts say (`ArgumentRecord.sharding`).
    """

    mesh: Mesh
    matches: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Index:
    """All records of a bundle."""

    format: int
    valid_until: str
    """The last day, YYYY-MM-DD, on which every jax release is promised to read the programs."""
    origin: str | None
    """The digest of the bundle that this one was refreshed from."""
    versions: Mapping[str, str]
    """Of what lowered the programs: jax, jaxlib."""
    settings: Mapping[str, Any]
    """Options of jax when the programs were lowered."""
    model: Mapping[str, Any]
    """What the model was, for people: family and configuration. The runtime does not read it."""
    generation: GenerationRecord | None
    images: Images | None
    """What it makes of images; absent for a model that takes none."""
    rules: Mapping[str, Any]
    """Partition rules as in the manifest; empty where it has none."""
    partitions: tuple[PartitionRecord, ...]
    waivers: tuple[str, ...]
    """Custom calls that the manifest allowed."""
    combos: tuple[ComboRecord, ...]
    phases: Mapping[str, PhaseRecord]
    programs: Sequence[ProgramRecord]
    bindings: tuple[BindingRecord, ...]
    entries: tuple[EntryRecord, ...]
    weights: WeightsRecord
    tokenizer: Mapping[str, BlobRecord]
    """File name to blob: tokenizer.json, tokenizer_config.json, chat_template.jinja."""


def stored(index: Index) -> Iterator[tuple[str, str, str, int]]:
    """(path in the index, role, digest, bytes) of every blob that the index names, in its order.

    The role is program, executable, tuning, weights or tokenizer. One blob may be named more than once.
    """
    for i, program in enumerate(index.programs):
        yield f"programs[{i}]", "program", program.digest, program.bytes
    for i, program in enumerate(index.programs):
        for j, executable in enumerate(program.executables):
            yield f"programs[{i}].executables[{j}]", "executable", executable.digest, executable.bytes
            if executable.tuning is not None:
                blob = executable.tuning
                yield f"programs[{i}].executables[{j}].tuning", "tuning", blob.digest, blob.bytes
    for i, blob in enumerate(index.weights.blobs):
        yield f"weights.blobs[{i}]", "weights", blob.digest, blob.bytes
    for name, blob in sorted(index.tokenizer.items()):
        yield f"tokenizer[{name!r}]", "tokenizer", blob.digest, blob.bytes
