"""The records of a bundle's index: what the config blob says, as frozen values.

Lists that repeat across entries are stored once and named by position: `Index.programs`, `Index.bindings` and
`Index.combos` are tables, and a call is the pair (program, binding).

`aot.bundle.index.codec` reads them back by these types, whose bounds are in `aot.bundle.index.bounds`; `Any` stands for
what JSON can say, with tuples for lists.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aot.bundle.index.bounds import (
    Axes,
    Calls,
    Count,
    Day,
    Digest,
    Dimensions,
    FileName,
    Ids,
    Index32,
    Key,
    Matches,
    Mesh,
    Name,
    Number,
    Positive,
    Shape,
    Slots,
    Text,
    Texts,
    Turns,
)
from aot.targets import Target, target_of
from aot.vision import Images

# Format versions:
RESTRICTED, REPEATED = 2, 3
"""The versions of the format in which `generation.sampling` got the names of `aot.sampling.RESTRICTIONS`, and chains
their `repeat`."""
FORMAT = REPEATED


@dataclass(frozen=True)
class ArgumentRecord:
    """One argument or result of a program: its place in the tuple is its place in the executable's call."""

    name: Name
    dtype: Name
    shape: Shape
    sharding: Axes
    donated: bool = False


@dataclass(frozen=True)
class BlobRecord:
    """Some stored bytes: digest and size."""

    digest: Digest
    bytes: Count


@dataclass(frozen=True)
class ExecutableRecord:
    """A program compiled for one target."""

    target: Mapping[str, Any]
    """The target as in the manifest: {"cpu": {"isa": "avx2", "threads": 32}}."""
    digest: Digest
    bytes: Count
    flags: Texts
    """XLA's options when it was compiled."""
    compiler: Mapping[Name, Text]
    """Versions of all that compiled it: {"jaxlib": "0.10.2"}. What loads it must be of the same."""
    requires: Mapping[str, Any]
    """What the machine must have: {"machine": "x86_64", "features": ["avx", …]} in the kernel's names, or devices."""
    memory: Mapping[Name, Count]
    """XLA's own figures in bytes: arguments, outputs, aliased, temporaries, code."""
    cost: Mapping[Name, Count]
    """XLA's own counts, of each loop one turn: flops, transcendentals, bytes_accessed; empty where it has none."""
    tuning: BlobRecord | None = None
    """What XLA chose on the device, which this was compiled by; None where its cost model chose."""

    @property
    def built_for(self) -> Target:
        """The target, read."""
        return target_of(self.target)


@dataclass(frozen=True)
class ProgramRecord:
    """A portable program (`jax.export`) with its calling contract."""

    digest: Digest
    bytes: Count
    name: Name
    platform: Name
    mesh: Mesh
    arguments: tuple[ArgumentRecord, ...]
    results: tuple[ArgumentRecord, ...]
    executables: tuple[ExecutableRecord, ...]


@dataclass(frozen=True)
class BindingRecord:
    """The slots of a call: one for each argument and each result, in the contract's order."""

    takes: Slots
    gives: Slots


@dataclass(frozen=True)
class PhaseRecord:
    """A phase: which axis of each of its inputs and outputs is which precompile dimension."""

    inputs: Mapping[Name, Dimensions]
    outputs: Mapping[Name, Dimensions]
    partial: Slots
    """Inputs that the entries of some combos do not take."""


@dataclass(frozen=True)
class RepeatRecord:
    """The calls from `begin` to before `end` are made in turns, as `aot.chain.Repeat` says."""

    begin: Index32
    end: Index32
    slot: Name
    most: Turns
    count: Name
    stacked: Slots


@dataclass(frozen=True)
class ChainRecord:
    """The calls of an entry on one platform and mesh, as positions in `Index.programs` and `Index.bindings`."""

    platform: Name
    mesh: Mesh
    calls: Calls
    repeat: RepeatRecord | None = None
    """Calls that are made in turns; it is not stored where there are none."""


@dataclass(frozen=True)
class EntryRecord:
    """One phase of one combo."""

    combo: Index32
    phase: Name
    chains: tuple[ChainRecord, ...]


@dataclass(frozen=True)
class ComboRecord:
    """A combo's key and its dimensions (those of `PreCompileConfig`)."""

    key: Key
    dimensions: Mapping[str, Any]


@dataclass(frozen=True)
class WeightRecord:
    """One weight and the position of the blob in `WeightsRecord.blobs` that holds it."""

    dtype: Name
    shape: Shape
    blob: Index32


@dataclass(frozen=True)
class WeightsRecord:
    blobs: tuple[BlobRecord, ...]
    arrays: Mapping[Name, WeightRecord]


@dataclass(frozen=True)
class GenerationRecord:
    """What a language model's requests default to. Absent for other models."""

    vocab_size: Positive
    max_new_tokens: Positive
    num_return_sequences: Positive | Mapping[Key, Positive]
    """A number, or one for each key."""
    streaming_chunks: Positive
    logits: Name
    eos_token_id: Ids
    pad_token_id: Index32
    bos_token_id: Index32 | None
    sampling: Mapping[Name, Number | tuple[int | Text, ...]]
    """Numbers, and where a checkpoint restricts its texts lists, as `aot.sampling.record_sampling` gives them."""


@dataclass(frozen=True)
class PartitionRecord:
    """A mesh, and how many arrays each partition rule was the first to match on it, by its pattern, in order.

    How arrays lie in the end, contracts say (`ArgumentRecord.sharding`).
    """

    mesh: Mesh
    matches: Matches


@dataclass(frozen=True)
class Index:
    """All records of a bundle."""

    format: Positive
    valid_until: Day
    """The last day, YYYY-MM-DD, on which every jax release is promised to read the programs."""
    origin: Digest | None
    """The digest of the bundle that this one was refreshed from."""
    versions: Mapping[Name, Text]
    """Versions of what lowered the programs: jax, jaxlib."""
    settings: Mapping[str, Any]
    """Options of jax when the programs were lowered."""
    model: Mapping[str, Any]
    """What the model was, for people: family and configuration. The runtime does not read it."""
    generation: GenerationRecord | None
    images: Images | None
    """What the model makes of images; absent for one that takes none."""
    rules: Mapping[str, Any]
    """Partition rules as in the manifest; empty where it has none."""
    partitions: tuple[PartitionRecord, ...]
    waivers: Texts
    """Custom calls that the manifest allowed."""
    combos: tuple[ComboRecord, ...]
    phases: Mapping[Name, PhaseRecord]
    programs: tuple[ProgramRecord, ...]
    bindings: tuple[BindingRecord, ...]
    entries: tuple[EntryRecord, ...]
    weights: WeightsRecord
    tokenizer: Mapping[FileName, BlobRecord]
    """File name to blob: tokenizer.json, tokenizer_config.json, chat_template.jinja."""


def stored_blobs(index: Index) -> Iterator[tuple[str, str, str, int]]:
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
