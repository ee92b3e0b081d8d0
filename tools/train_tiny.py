"""Trains the tiny checkpoint of `manifests/tiny.yaml` on the standard library of the Python that runs this.

    python tools/train_tiny.py [--minutes 30] [--output manifests/tiny]

Needs torch and transformers (`pip install torch jax-aot[test]`), one core and no network. Split, tokenizer, initial
weights and order of the batches follow from SEED and the standard library; the learning rate follows the clock, so the
number of steps, and with it the weights, depend on the machine.
"""

import argparse
import json
import math
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tiny_corpus
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SEED = 0
VOCABULARY, WINDOW, BATCH = 2048, 512, 4
PEAK_LEARNING_RATE, WARMUP = 8e-3, 0.03  # the second as a part of the run
END, TURN, TURN_END = SPECIAL = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen2's own splitting of text into words
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPTS = ("def main(", "import os\n", "class Test")
QUESTIONS = ("What does read do?", "Explain TestCase.run.")
DRAWS: dict[str, dict[str, Any]] = {
    "Greedy": {"do_sample": False},
    "Greedy with repetition penalty 1.2": {"do_sample": False, "repetition_penalty": 1.2},
    "Temperature 0.7, top-p 0.95": {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.95},
}


@dataclass(frozen=True)
class Stream:
    """Documents as one tensor of token ids, and where each document starts."""

    tokens: torch.Tensor
    starts: torch.Tensor


def train_tokenizer(texts: list[str], size: int, special: Sequence[str]) -> Tokenizer:
    """A byte-level BPE as Qwen2 has it: every text has tokens and comes back as it was, normalised to NFC."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Stream:
    """Shuffled documents, each closed by END."""
    texts = random.Random(SEED).sample(texts, len(texts))
    ids = [encoding.ids for encoding in tokenizer.encode_batch([text + END for text in texts])]
    lengths = torch.tensor([len(document) for document in ids])
    return Stream(torch.tensor([token for document in ids for token in document]), lengths.cumsum(0) - lengths)


def batch(stream: Stream, rng: torch.Generator) -> torch.Tensor:
    """Windows `[BATCH, WINDOW]`, half of them from anywhere and half from the start of a document."""
    anywhere = torch.randint(len(stream.tokens), (BATCH // 2,), generator=rng)
    chosen = stream.starts[torch.randint(len(stream.starts), (BATCH - BATCH // 2,), generator=rng)]
    offsets = torch.cat([anywhere, chosen]).clamp(max=len(stream.tokens) - WINDOW)
    return stream.tokens[offsets[:, None] + torch.arange(WINDOW)]


def new_model(tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    """An untrained Qwen2 of about a million parameters."""
    end, turn_end = tokenizer.token_to_id(END), tokenizer.token_to_id(TURN_END)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[end, turn_end], pad_token_id=end)
    return model


@torch.inference_mode()
def loss_on(model: Qwen2ForCausalLM, stream: Stream) -> float:
    """Mean loss per token in nats over windows side by side."""
    windows = torch.split(stream.tokens[: len(stream.tokens) // WINDOW * WINDOW].view(-1, WINDOW), BATCH)
    total = 0.0
    for tokens in windows:
        total += model(input_ids=tokens, labels=tokens, use_cache=False).loss.item() * len(tokens)
    return total / sum(len(tokens) for tokens in windows)


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    cosine = 0.505 + 0.495 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))
    return peak * min(progress / WARMUP, cosine)


def new_optimizers(model: torch.nn.Module, blocks: Sequence[torch.nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, which reaches AdamW's loss in under half the steps, and AdamW for the rest."""
    rates: dict[str, Any] = {"weight_decay": 0.1}  # the learning rate is set at each step
    matrices = [weight for block in blocks for weight in block.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    known = {id(weight) for weight in (*matrices, *vectors)}
    rest: list[dict[str, Any]] = [
        {"params": [weight for weight in model.parameters() if id(weight) not in known]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **rates),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), **rates),
    ]


def train(model: Qwen2ForCausalLM, stream: Stream, minutes: float) -> Iterator[int]:
    """Trains for so long; gives the number of steps done at each fifth of the time, the last one included."""
    rng = torch.Generator().manual_seed(SEED)
    optimizers = new_optimizers(model, [model.model.layers])
    started, steps, fifths = time.monotonic(), 0, 0
    while fifths < 5:
        progress = min((time.monotonic() - started) / (minutes * 60), 1.0)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(progress, PEAK_LEARNING_RATE)
        tokens = batch(stream, rng)
        with torch.autocast("cpu", torch.bfloat16):  # a third faster where the core has AMX
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        steps += 1
        if progress * 5 >= fifths + 1:
            fifths += 1
            yield steps


def samples(directory: Path) -> str:
    """Continuations as Markdown, by the checkpoint as a user would load it: greedy ones and drawn ones."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    found = []
    for title, options in DRAWS.items():
        torch.manual_seed(SEED)
        found.append(f"### {title}")
        for prompt in (*PROMPTS, *texts):
            inputs = tokenizer(prompt, return_tensors="pt")
            tokens = model.generate(**inputs, max_new_tokens=64, **options)[0]
            found.append(f"```text\n{str(tokenizer.decode(tokens)).rstrip()}\n```")
    return "\n\n".join(found)


def write_checkpoint(
    directory: Path, model: PreTrainedModel, tokenizer: Tokenizer, special: Sequence[str], chat_template: str
) -> None:
    """Model and tokenizer as `transformers` reads them, the chat template inside the tokenizer's configuration."""
    model.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": WINDOW,
        "eos_token": END,
        "pad_token": END,
        "extra_special_tokens": [token for token in special if token != END],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write(model: Qwen2ForCausalLM, tokenizer: Tokenizer, facts: dict[str, str], directory: Path) -> str:
    """The checkpoint with everything but its card, which is given."""
    write_checkpoint(directory, model, tokenizer, SPECIAL, tiny_corpus.CHAT_TEMPLATE)
    return card(directory, "tiny_card.md", facts | {"samples": samples(directory)})


def measured(model: Qwen2ForCausalLM, tokenizer: Tokenizer, corpus: tiny_corpus.Corpus) -> dict[str, str]:
    """Loss on modules that the training never saw, for the card."""
    code, chats = (encode(tokenizer, texts) for texts in (corpus.held_out_code, corpus.held_out_chats))
    losses = {"code": loss_on(model, code), "chat": loss_on(model, chats)}
    size = sum(len(text.encode()) for text in corpus.held_out_code)
    facts = {f"{name}_loss": f"{loss:.3f}" for name, loss in losses.items()}
    facts |= {f"{name}_perplexity": f"{math.exp(loss):.1f}" for name, loss in losses.items()}
    bits = losses["code"] / math.log(2) * len(code.tokens) / size
    return facts | {"bits": f"{bits:.2f}", "held_out_tokens": f"{len(code.tokens) + len(chats.tokens):,}"}


def publish(output: Path, write: Callable[[Path], str]) -> None:
    """Replaces `output` by a directory that `write` has filled and its card, by renaming complete directories."""
    staged, old = (output.with_name(f".{output.name}.{word}") for word in ("new", "old"))
    for leftover in (staged, old):
        shutil.rmtree(leftover, ignore_errors=True)
    card = write(staged)
    (staged / "README.md").write_text(card, encoding="utf-8")
    if output.exists():
        output.rename(old)
    staged.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def card(directory: Path, name: str, facts: Mapping[str, str]) -> str:
    """A model card of this name beside the tools, with the size of a checkpoint."""
    size = sum(path.stat().st_size for path in directory.iterdir())
    template = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return template.format_map({**facts, "megabytes": f"{size / 1e6:.1f}"})


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the tiny checkpoint of manifests/tiny.yaml.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to train; default 30")
    parser.add_argument("--output", type=Path, default=Path("manifests/tiny"), help="directory to write or replace")
    return parser.parse_args()


def main() -> None:
    """Trains, and publishes at each fifth of the time, so that an early end leaves a usable checkpoint."""
    options = parse_options()
    torch.set_num_threads(1)  # leaves the machine usable, and sums come in one order
    torch.manual_seed(SEED)
    corpus = tiny_corpus.read(SEED)
    tokenizer = train_tokenizer(corpus.code, VOCABULARY, SPECIAL)
    stream = encode(tokenizer, corpus.code + corpus.chats)
    model = new_model(tokenizer)
    facts = {"python": platform.python_version(), "minutes": f"{options.minutes:g}", "window": str(WINDOW)}
    facts |= {"vocabulary": f"{VOCABULARY:,}", "tokens": f"{len(stream.tokens):,}", "batch": str(BATCH)}
    facts |= {"parameters": f"{model.num_parameters():,}"}
    for steps in train(model, stream, options.minutes):
        seen = {"steps": f"{steps:,}", "tokens_seen": f"{steps * BATCH * WINDOW:,}"}
        results = measured(model, tokenizer, corpus)
        print(f"{steps} steps: loss {results['code_loss']} on code, {results['chat_loss']} on chat", flush=True)
        publish(options.output, partial(write, model, tokenizer, facts | seen | results))


if __name__ == "__main__":
    main()
