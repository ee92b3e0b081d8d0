"""Tokenizers of checkpoints: other kinds than tokenizer.json are converted or named, what cannot be read is refused."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from places import TINY
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from aot import plan as plans
from aot.builder.stages import provenance, tokenizer
from aot.errors import InputError, ManifestError
from aot.plan import Plan
from aot.runtime.prompting.text import TextTokenizer

CORPUS = ["The quick brown fox doesn't jump 1234 times.\n\n", "  Grüße aus Köln 你好 🦊", "def main():\n\treturn 0"]
LLAMA = (  # how Llama 3 cuts a text into words
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MANIFEST = "name: a\nmodel: {{checkpoint: tiny{more}}}\nprecompile: {{prefill_length: 64}}\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The tiny checkpoint without its tokenizer."""
    shutil.copytree(TINY.parent / "tiny", tmp_path / "tiny", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    return tmp_path / "tiny"


def planned(checkpoint: Path, more: str = "") -> Plan:
    file = checkpoint.parent / "a.yaml"
    file.write_text(MANIFEST.format(more=more))
    return plans.resolve(plans.read_manifest(file))


def put_pair(directory: Path) -> None:
    """vocab.json and merges.txt, as GPT-2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(made.to_str())["model"]
    vocabulary = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "chat_template": "{{ messages }}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def put_tekken(directory: Path) -> None:
    """tekken.json, as Mistral's."""
    pieces = [*(bytes([byte]) for byte in range(256)), b"Th", b"The", b" q", b"ui"]
    words = [{"rank": n, "token_bytes": base64.b64encode(piece).decode()} for n, piece in enumerate(pieces)]
    special = [{"rank": n, "token_str": s, "is_control": True} for n, s in enumerate(["<unk>", "<s>", "</s>"])]
    config = {"pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+", "default_vocab_size": 263}
    config |= {"num_vocab_tokens": 260, "default_num_special_tokens": 3, "version": "v3"}
    (directory / "tekken.json").write_text(json.dumps({"config": config, "vocab": words, "special_tokens": special}))


@pytest.mark.parametrize("put", [put_pair, put_tekken])
def test_a_tokenizer_of_another_kind_becomes_one_with_the_ids_of_transformers(
    checkpoint: Path, put: Callable[[Path], None]
) -> None:
    put(checkpoint)
    plan = planned(checkpoint)

    made = tokenizer.tokenizer_blobs(plan.model.tokenizer)

    text, theirs = TextTokenizer.from_files(made, "bundle a"), AutoTokenizer.from_pretrained(checkpoint)
    assert [text.encode(each) for each in CORPUS] == [theirs(each)["input_ids"] for each in CORPUS]
    assert [text.decode(text.encode(each)) for each in CORPUS] == CORPUS
    assert "is made of" in tokenizer.tokenizer_remarks(plan)[0]
    read = {name for name, _ in tokenizer.tokenizer_sources(plan.model.tokenizer)}
    assert read >= ({"tekken.json"} if put is put_tekken else {"vocab.json", "merges.txt", "tokenizer_config.json"})
    assert "transformers" in tokenizer.converter_wheels(plan.model.tokenizer)


def test_a_sentencepiece_model_becomes_a_tokenizer_with_its_own_ids(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("\n".join(CORPUS * 20))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe",
        vocab_size=330, byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    text = TextTokenizer.from_files(tokenizer.tokenizer_blobs(tmp_path), "bundle a")

    lines = [line for each in CORPUS for line in each.split("\n") if line]
    assert [text.encode(line) for line in lines] == [theirs.encode(line) for line in lines]


@pytest.mark.parametrize("name", ["tiktoken.model", "tokenizer.model"])
def test_ranks_of_tiktoken_become_a_tokenizer_with_its_own_ids(tmp_path: Path, name: str) -> None:
    pieces = [*(bytes([byte]) for byte in range(256)), b"Th", b"he", b"The", b" q", b"ui", b"qui", b"\xc3\xbc"]
    lines = [f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)]
    (tmp_path / name).write_text("".join(lines))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    theirs = tiktoken.Encoding("llama", pat_str=LLAMA, mergeable_ranks=ranks, special_tokens={})

    text = TextTokenizer.from_files(tokenizer.tokenizer_blobs(tmp_path), "bundle a")

    assert [text.encode(each) for each in CORPUS] == [theirs.encode(each) for each in CORPUS]


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "qwen.tiktoken"])
def test_a_tokenizer_that_cannot_be_converted_is_a_remark_and_an_error_where_it_was_asked_for(
    checkpoint: Path, name: str
) -> None:
    (checkpoint / name).write_bytes(b"{}")
    (checkpoint.parent / "other").mkdir()
    shutil.copy(checkpoint / name, checkpoint.parent / "other")
    plan = planned(checkpoint)

    (remark,) = tokenizer.tokenizer_remarks(plan)

    assert remark.startswith(f"tokenizer: {name} cannot be converted, so the bundle takes token ids alone: ")
    assert (tokenizer.tokenizer_blobs(plan.model.tokenizer), tokenizer.tokenizer_sources(plan.model.tokenizer)) == (
        {},
        [],
    )
    with pytest.raises(InputError, match=f"model.tokenizer: .* has no tokenizer.json, and {name} cannot be converted"):
        tokenizer.tokenizer_remarks(planned(checkpoint, ", tokenizer: other"))


def test_a_directory_without_any_tokenizer_is_refused_where_it_was_asked_for(checkpoint: Path) -> None:
    (checkpoint.parent / "other").mkdir()

    with pytest.raises(ManifestError, match=r"model.tokenizer: .*other has no tokenizer"):
        planned(checkpoint, ", tokenizer: other")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"tokenizer.json": b"{"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b'{"model": {"type": "NewModel"}}'}, "tokenizer.json cannot be read by tokenizers"),
        ({"chat_template.jinja": b"{% if %}"}, "the chat template does not parse"),
        (
            {"chat_template.jinja": b"x", "additional_chat_templates/tool_use.jinja": b"{% new %}"},
            "the chat template does not parse",
        ),
        ({"chat_template.json": b'{"chat_template": "{{ x"}'}, "the chat template does not parse"),
    ],
)
def test_what_could_not_be_served_from_is_found_by_plan_and_build(
    checkpoint: Path, damage: dict[str, bytes], message: str, refused: Callable[..., str]
) -> None:
    shutil.copy(TINY.parent / "tiny" / "tokenizer.json", checkpoint)
    for name, data in damage.items():
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(data)
    planned(checkpoint)

    for command in ("plan", "build"):
        said = refused(2, command, checkpoint.parent / "a.yaml")

        assert said.startswith(f"{checkpoint}: {message}")
        assert said.endswith("correct the file, or give a directory with a tokenizer.json as model.tokenizer")


def test_templates_of_processors_and_further_ones_are_carried_and_named(checkpoint: Path) -> None:
    shutil.copy(TINY.parent / "tiny" / "tokenizer.json", checkpoint)
    (checkpoint / "chat_template.json").write_text('{"chat_template": "json"}')
    alone = tokenizer.tokenizer_blobs(checkpoint)
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates/default.jinja").write_text("default")

    both = tokenizer.tokenizer_blobs(checkpoint)

    assert (alone.keys(), both.keys()) == (
        {"tokenizer.json", "chat_template.json"},
        {"tokenizer.json", "chat_template.default.jinja"},
    )
    named = [name for name, _ in provenance._tokenizer(planned(checkpoint))]
    assert named == ["tokenizer.json", "additional_chat_templates/default.jinja"]
