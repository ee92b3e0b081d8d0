"""Requests that a bundle cannot serve and bundles that are damaged, as `aot run` and `aot verify` meet them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic

import aot
from aot import digest
from aot.bundle import oci, store
from aot.bundle.index import codec
from aot.bundle.index.records import FORMAT, Index
from aot.cli import main
from aot.errors import InputError

ASK = ("--prompt", "a", "--max-new-tokens", "1")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be spoiled."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        (3, ["--prompt-ids", ",".join(["5"] * 65)], "request: 65 tokens exceed the largest prefill bucket, 64"),
        (3, ["--prompt", "a", "--max-new-tokens", "1000"], "exceed the largest max_length, 128"),
        (2, ["--prompt", ""], "request: prompt 0 has no tokens"),
        (2, ["--prompt", "a", "--n", "0"], "request: n must be"),
        (2, ["--prompt", "a", "--n", "two"], "invalid value for '--n'"),
        (2, ["--prompt", "a", "--max-new-tokens", "0"], "request: max_new_tokens must be"),
        (2, ["--prompt-ids", "1,x"], "--prompt-ids: must be integers with commas between, got '1,x'"),
        (2, ["--prompt-ids", ""], "--prompt-ids: must be integers"),
        (2, ["--prompt-ids", "99999"], "has the token 99999, the vocabulary ends at"),
        (2, ["--prompt-ids=-1"], "has the token -1"),
        (2, ["--prompt", "a", "--seed", "-1"], "request: seed"),
        (2, ["--prompt", "a", "--seed", str(2**64)], "request: seed"),
        (2, ["--prompt", "a", "--seed", "x"], "invalid value for '--seed'"),
        (2, ["--prompt", "a", "--temperature", "-1"], "sampling.temperature: must be at least 0"),
        (2, ["--prompt", "a", "--temperature", "nan"], "sampling.temperature: must be a finite number"),
        (2, ["--prompt", "a", "--temperature", "1e39"], "sampling.temperature: "),
        (2, ["--prompt", "a", "--top-p", "1.5"], "sampling.top_p: must be between 0 and 1"),
        (2, ["--prompt", "a", "--top-k", "-2"], "sampling.top_k: must be an integer"),
        (2, ["--prompt", "a", "--top-k", str(2**31)], "sampling.top_k: "),
        (2, ["--prompt", "a", "--min-p", "2"], "sampling.min_p: must be between 0 and 1"),
        (2, ["--prompt", "a", "--repetition-penalty", "0"], "sampling.repetition_penalty: must be above 0"),
        (2, ["--prompt", "a", "--stop", ""], "stop: must be"),
        (2, ["--prompt", "a", "--policy", "lax"], "invalid value for '--policy'"),
        (2, ["--prompt", "a", "--promt", "b"], "no such option"),
        (2, [], "give a prompt: --prompt TEXT, --chat FILE or --prompt-ids 1,2,3"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_a_line(
    tiny_bundle: Path, refused: Callable[..., str], code: int, options: list[str], said: str
) -> None:
    assert said in refused(code, "run", tiny_bundle, *options)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '"a"',
        "[1, 2]",
        "[[]]",
        '[{"role": "user"}]',
        '[{"content": "a"}]',
        "[" * 10**5,
        b"\xff",
    ],
)
def test_a_chat_file_without_a_conversation_is_named(
    tiny_bundle: Path, tmp_path: Path, refused: Callable[..., str], text: str | bytes | None
) -> None:
    file = tmp_path / "chat.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    assert refused(2, "run", tiny_bundle, "--chat", file).startswith(("--chat ", "conversation: message 1: "))


def test_a_stream_is_one_prompt_and_no_document(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options in (["--json"], ["--prompt", "b"], ["--n", "2"]):
        code = main.run(["run", str(tiny_bundle), "--prompt", "a", "--stream", *options])
        out, err = capfd.readouterr()

        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "stream" in err


def test_more_rows_than_any_bucket_has_are_split(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    largest = max(combo.dimensions["batch_size"] for combo in store.open(tiny_bundle).index.combos)
    prompts = [option for number in range(largest + 3) for option in ("--prompt-ids", str(number + 5))]

    assert main.run(["run", str(tiny_bundle), *prompts, "--max-new-tokens", "2", "--json"]) == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert len(results) == largest + 3


def test_a_batch_of_none_is_an_input_error(tiny_bundle: Path) -> None:
    with aot.load(tiny_bundle) as model, pytest.raises(InputError, match="the batch is empty"):
        model.generate([])


@pytest.mark.parametrize("options", [["--prompt", "a"], ["--chat", "chat.json"], ["--prompt-ids", "5", "--stop", "a"]])
def test_a_model_without_a_tokenizer_takes_token_ids_alone(
    bundle: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    reindex(bundle, replace(store.open(bundle).index, tokenizer={}))
    (bundle.parent / "chat.json").write_text('[{"role": "user", "content": "a"}]')
    monkeypatch.chdir(bundle.parent)

    assert "tokenizer" in refused(2, "run", bundle, *options)


def test_a_model_without_a_tokenizer_gives_token_ids(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reindex(bundle, replace(store.open(bundle).index, tokenizer={}))

    assert main.run(["verify", str(bundle)]) == 0
    capfd.readouterr()
    assert main.run(["run", str(bundle), "--prompt-ids", "5,6", "--max-new-tokens", "3", "--json"]) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    assert main.run(["run", str(bundle), "--prompt-ids", "5,6", "--max-new-tokens", "3"]) == 0
    assert capfd.readouterr().out == ",".join(map(str, result["token_ids"])) + "\n"


@pytest.mark.parametrize("command", ["run", "verify", "check", "inspect"])
@pytest.mark.parametrize("kind", ["nothing", "file", "directory"])
def test_a_path_without_a_bundle_is_named(tmp_path: Path, refused: Callable[..., str], command: str, kind: str) -> None:
    place = tmp_path / "b"
    if kind == "file":
        place.write_text("")
    elif kind == "directory":
        place.mkdir()

    assert refused(2, command, place, *(ASK if command == "run" else ())).startswith(f"bundle {place}: ")


def reindex(root: Path, index: Index) -> None:
    """Gives a bundle another index; blobs that it no longer names go, and attachments."""
    old = store.open(root)
    data = codec.encode(index)
    layers = oci.layers(index)
    about = {layer.digest for layer in old.attachments.values()}
    named = {layer.digest for layer in oci.layers(old.index)} - {layer.digest for layer in layers}
    for gone in named | about | {old.digest}:
        synthetic.blob_file(root, gone).unlink()
    synthetic.blob_file(root, digest.digest_of(data)).write_bytes(data)
    synthetic.reseal(root, oci.write_manifest(oci.Descriptor(digest.digest_of(data), len(data), oci.CONFIG), layers))


def test_a_decode_that_takes_other_steps_than_it_says_is_an_error_of_the_bundle(
    bundle: Path, refused: Callable[..., str]
) -> None:
    """Its calls repeated, of which only the last one's tokens are seen: types and shapes are right."""
    index = store.open(bundle).index
    repeated = [
        replace(entry, chains=tuple(replace(chain, calls=chain.calls * 40) for chain in entry.chains))
        if entry.phase == "decode"
        else entry
        for entry in index.entries
    ]
    reindex(bundle, replace(index, entries=tuple(repeated)))

    assert "takes no step of decode while rows go on" in refused(5, "run", bundle, "--prompt", "a")


def test_a_prefill_without_a_block_whose_state_decode_goes_on_with_is_an_error_of_the_bundle(
    bundle: Path, refused: Callable[..., str]
) -> None:
    """Blocks take and give the same arrays: without one all types and shapes are right."""
    index = store.open(bundle).index
    last = "state/cache/3/key"
    entries = [
        replace(entry, chains=tuple(replace(c, calls=without(index, c.calls, last)) for c in entry.chains))
        if entry.phase == "prefill"
        else entry
        for entry in index.entries
    ]
    reindex(bundle, replace(index, entries=tuple(entries)))

    said = refused(5, "run", bundle, "--prompt", "a")
    assert f"its prefill has no {last!r}, which another phase goes on with" in said


def without(index: Index, calls: tuple[tuple[int, int], ...], slot: str) -> tuple[tuple[int, int], ...]:
    """The calls that do not give a slot."""
    return tuple(call for call in calls if slot not in index.bindings[call[1]].gives)


def files(root: Path) -> dict[str, Path]:
    """The files that serving the shortest prompt reads, one of each kind, and a program, which it does not read."""
    opened = store.open(root)
    program = opened.index.programs[0]
    blobs = {
        "weights": opened.index.weights.blobs[0].digest,
        "tokenizer": opened.index.tokenizer["tokenizer.json"].digest,
        "executable": program.executables[0].digest,
        "program": program.digest,
        "index": opened.digest,
    }
    found = {kind: synthetic.blob_file(root, name) for kind, name in blobs.items()}
    layout = {"image manifest": synthetic.manifest_of(root), "index.json": root / "index.json"}
    return found | layout | {"oci-layout": root / "oci-layout"}


@pytest.mark.parametrize(
    "kind", ["weights", "tokenizer", "executable", "program", "index", "image manifest", "index.json", "oci-layout"]
)
def test_a_flipped_byte_is_refused_before_it_is_used(bundle: Path, refused: Callable[..., str], kind: str) -> None:
    file = files(bundle)[kind]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)

    assert refused(5, "verify", bundle).startswith(f"bundle {bundle}: ")
    if kind == "program":  # where the executable fits, the program is never opened
        assert main.run(["run", str(bundle), *ASK]) == 0
    else:
        assert refused(5, "run", bundle, *ASK).startswith(f"bundle {bundle}: ")


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        value = synthetic.opened(data)
        change(value)
        return synthetic.closed(value)

    return apply


@pytest.mark.parametrize("command", ["run", "verify", "check", "inspect"])
@pytest.mark.parametrize(
    ("code", "change", "said"),
    [
        (5, lambda data: data[: len(data) // 2], "was truncated"),
        (5, lambda data: b"", "must begin with its format version"),
        (4, changed(lambda index: index.update(format=FORMAT + 1)), f"format version {FORMAT + 1}"),
        (5, changed(lambda index: index.update(format=0)), "format version"),
        (5, changed(lambda index: index["programs"][0].update(digest="sha256:../../../etc/passwd")), "digest: must be"),
        (5, changed(lambda index: index["weights"]["blobs"][0].update(bytes=1 << 62)), "4611686018427387904"),
        (5, lambda data: b"\x82\xa6format\x01\xa1a\xc6\xff\xff\xff\xff", "was truncated"),
    ],
    ids=["truncated", "empty", "newer", "older", "dots in a name", "huge size", "huge length"],
)
def test_an_index_whose_digest_holds_is_still_not_trusted(
    bundle: Path, refused: Callable[..., str], command: str, code: int, change: Callable[[bytes], bytes], said: str
) -> None:
    synthetic.rewire(bundle, change(codec.encode(store.open(bundle).index)))

    assert said in refused(code, command, bundle, *(ASK if command == "run" else ()))
