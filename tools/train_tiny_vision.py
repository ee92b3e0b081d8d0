"""Trains the tiny checkpoint of `manifests/tiny-vision.yaml` on pictures that `tiny_pictures` draws.

    python tools/train_tiny_vision.py [--minutes 20] [--output manifests/tiny-vision]

Needs torch, transformers and Pillow (`pip install torch jax-aot[test]`), one core and no network. Tokenizer, initial
weights, pictures and questions follow from SEED; schedule and mixture follow the clock, so the number of steps, and
with it the weights, depend on the machine.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jinja2
import tiny_pictures
import torch
import train_tiny
from PIL import Image
from tiny_pictures import Example, Figure, Turn
from tokenizers import Tokenizer
from train_tiny import END, TURN_END, WINDOW
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SEED, HELD_OUT_SEED = 0, 1
VOCABULARY, BATCH = 512, 32  # tokens at most
PEAK_LEARNING_RATE = 3e-3
ALONE = 0.3  # the part of the run in which no conversation has more than one picture
MEASURED = 2048  # conversations held out with each number of pictures
START, STOP, IMAGE, VIDEO = VISION = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (*train_tiny.SPECIAL, *VISION)
PATCH, MERGE = 8, 2  # pixels of a patch's side, patches of a token's
MOST_TURNS = {0: 2, 1: 3, 2: 3, 3: 2}
"""Of a conversation, by its number of pictures."""
SAMPLES = (
    Figure("circle", "red", 0.3, 0.5, 0.28, 0.0),
    Figure("square", "blue", 0.65, 0.5, 0.4, 0.1),
    Figure("triangle", "green", 0.5, 0.6, 0.35, 0.0),
)
"""What the pictures beside the card show, one of each size."""
ASKED = (
    (("red-circle.png",), "What colour is it?"),
    (("blue-square.png",), "What colour is it?"),
    (("green-triangle.png",), "Is it red?"),
    (("red-circle.png", "blue-square.png"), "What colour is the first?"),
    (("blue-square.png", "red-circle.png"), "What colour is the first?"),
    (("blue-square.png", "red-circle.png"), "Which is red?"),
    (("red-circle.png", "blue-square.png"), "Do they have the same colour?"),
    (("red-circle.png", "blue-square.png", "green-triangle.png"), "What colour is the second?"),
    ((), "What colour is it?"),
    ((), "What colour is the sky?"),
)
PICTURES = [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
"""How many a conversation has, each as often as it stands here."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] in ['image', 'image_url'] %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Batch:
    """What the model takes, and of each row where the answers of its turns begin and end."""

    inputs: dict[str, torch.Tensor]
    answers: list[list[tuple[Turn, int, int]]]


class Result(NamedTuple):
    """How often a kind of question was asked with so many pictures, and answered right."""

    pictures: int
    kind: str
    asked: int
    right: int

    def __str__(self) -> str:
        return f"| {self.pictures} | {self.kind} | {self.asked} | {self.right / self.asked:.1%} |"


class Encoder:
    """Conversations as tokens and pixels, as transformers' own processor would make them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.image = tokenizer.token_to_id(IMAGE)
        self.template = jinja2.Template(CHAT_TEMPLATE, keep_trailing_newline=True)
        self.processor = image_processor()

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows padded on their right, with labels on answers and on what ends them."""
        rows = [self.row(example) for example in examples]
        longest = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.token_to_id(END)
        tokens = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.full_like(tokens, -100)
        for row, (_, answers) in enumerate(rows):
            for _, begin, end in answers:
                labels[row, begin:end] = tokens[row, begin:end]
        inputs = {"input_ids": tokens, "labels": labels, "mm_token_type_ids": (tokens == self.image).int()}
        inputs["attention_mask"] = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
        pictures = [picture for example in examples for picture in example.pictures]
        return Batch(inputs | self.pixels(pictures), [answers for _, answers in rows])

    def pixels(self, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
        return dict(self.processor(pictures, return_tensors="pt")) if pictures else {}

    def row(self, example: Example) -> tuple[list[int], list[tuple[Turn, int, int]]]:
        """Token ids, and where the answer of each turn begins and, with its end, ends."""
        ids: list[int] = []
        answers = []
        for at, turn in enumerate(example.turns):
            ids += self.encoded(("\n" if at else "") + self.asked(example, at))
            begin = len(ids)
            ids += self.encoded(f" {turn.answer}{END}" if example.plain else f"{turn.answer}{TURN_END}")
            answers.append((turn, begin, len(ids)))
        return ids, answers

    def asked(self, example: Example, at: int) -> str:
        """The text before the answer of a turn, with as many image tokens as its pictures have."""
        turn = example.turns[at]
        if example.plain:
            text = (START + IMAGE + STOP) * len(example.pictures) + turn.question
        else:
            message = tiny_pictures.question(example, at)
            text = self.template.render(messages=[message], add_generation_prompt=True)
        first, *others = text.split(IMAGE)
        counts = [tokens(picture) for picture in example.pictures][: len(others)]
        return first + "".join(IMAGE * count + other for count, other in zip(counts, others, strict=True))

    def encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids


def tokens(picture: Image.Image) -> int:
    """The number of image tokens of a picture."""
    return picture.width * picture.height // (PATCH * MERGE) ** 2


def image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen2-VL's own. It too brings a picture to about one of the sizes."""
    areas = [width * height for width, height in tiny_pictures.SIZES]
    size = {"shortest_edge": min(areas), "longest_edge": max(areas)}
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=size)


def new_model(tokenizer: Tokenizer) -> Qwen2VLForConditionalGeneration:
    """An untrained Qwen2-VL of a third of a million parameters."""
    ids = {name: tokenizer.token_to_id(token) for name, token in zip(("end", "turn_end"), (END, TURN_END), strict=True)}
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": ids["end"],
        "pad_token_id": ids["end"],
    }
    vision = {"depth": 3, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
    vision |= {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.token_to_id(IMAGE),
        video_token_id=tokenizer.token_to_id(VIDEO),
        vision_start_token_id=tokenizer.token_to_id(START),
        vision_end_token_id=tokenizer.token_to_id(STOP),
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=[ids["end"], ids["turn_end"]], pad_token_id=ids["end"])
    return model


def examples(numbers: Sequence[int], rng: random.Random) -> list[Example]:
    """A batch with these numbers of pictures: of ten two plain, and two conversations with the question first."""
    found = []
    for _ in range(BATCH):
        form, pictures = rng.randrange(10), rng.choice(numbers)
        turns = 1 if form < 2 else rng.randint(1, MOST_TURNS[pictures])
        made = tiny_pictures.example(pictures, turns, rng)
        found.append(replace(made, plain=form < 2, text_first=form in (2, 3)))
    return found


def train(model: Qwen2VLForConditionalGeneration, encoder: Encoder, minutes: float) -> tuple[int, int]:
    """Trains for so long; gives the numbers of steps and of pictures seen."""
    rng, started, losses, pictures, progress = random.Random(SEED), time.monotonic(), [], 0, 0.0
    optimizers = train_tiny.new_optimizers(model, [model.model.language_model.layers, model.model.visual])
    while progress < 1:
        progress = min((time.monotonic() - started) / (minutes * 60), 1.0)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = train_tiny.learning_rate(progress, PEAK_LEARNING_RATE)
        drawn = examples([n for n in PICTURES if n < 2 or progress > ALONE], rng)
        pictures += sum(len(example.pictures) for example in drawn)
        loss = model(**encoder.batch(drawn).inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 100 == 0:
            print(f"{len(losses)} steps, {progress:.0%} of the time: loss {sum(losses[-100:]) / 100:.3f}", flush=True)
    return len(losses), pictures


@torch.inference_mode()
def measured(model: Qwen2VLForConditionalGeneration, encoder: Encoder) -> list[Result]:
    """How many answers are right for each kind of question, on pictures never trained on, by conversations of one turn.

    Right is an answer of which each token, the end too, is the most probable one: what greedy decoding gives.
    """
    rng, results = random.Random(HELD_OUT_SEED), []
    for pictures, kinds in tiny_pictures.KINDS.items():
        found: dict[str, list[bool]] = {kind: [] for kind in kinds}
        for _ in range(0, MEASURED, BATCH):
            batch = encoder.batch([tiny_pictures.example(pictures, 1, rng) for _ in range(BATCH)])
            best = model(**batch.inputs, use_cache=False).logits.argmax(-1)
            for row, ((turn, begin, end),) in enumerate(batch.answers):
                wanted = batch.inputs["input_ids"][row, begin:end]
                found[turn.kind].append(torch.equal(best[row, begin - 1 : end - 1], wanted))
        results += [Result(pictures, kind, len(right), sum(right)) for kind, right in found.items()]
    return results


def write_samples(directory: Path) -> dict[str, Image.Image]:
    """Three pictures of different sizes, in files and at hand."""
    rng, shown = random.Random(SEED), {}
    for kind, (width, height) in zip(SAMPLES, tiny_pictures.SIZES, strict=True):
        picture = tiny_pictures.draw(kind, width, height, rng)
        name = f"{kind.colour}-{kind.shape}.png"
        picture.save(directory / name, optimize=True)
        shown[name] = picture
    return shown


def samples(model: Qwen2VLForConditionalGeneration, encoder: Encoder, shown: dict[str, Image.Image]) -> str:
    """Questions on pictures with the model's answers, as Markdown."""
    lines = ["| pictures | question | answer |", "|---|---|---|"]
    for names, question in ASKED:
        asked = Example(tuple(shown[name] for name in names), (Turn("", question, ""),))
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {question} | {answer(model, encoder, asked)} |")
    return "\n".join(lines)


@torch.inference_mode()
def answer(model: Qwen2VLForConditionalGeneration, encoder: Encoder, asked: Example) -> str:
    """What the model says, greedily, to the one question of an example."""
    ids = torch.tensor([encoder.encoded(encoder.asked(asked, 0))])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == encoder.image).int()}
    found = model.generate(**inputs, **encoder.pixels(list(asked.pictures)), max_new_tokens=24, do_sample=False)
    return str(encoder.tokenizer.decode(found[0, ids.shape[1] :].tolist()))


def write(model: Qwen2VLForConditionalGeneration, encoder: Encoder, facts: dict[str, str], directory: Path) -> str:
    """The checkpoint with everything but its card, which is given."""
    train_tiny.write_checkpoint(directory, model, encoder.tokenizer, SPECIAL, CHAT_TEMPLATE)
    encoder.processor.save_pretrained(directory)
    said = samples(model, encoder, write_samples(directory))
    return train_tiny.card(directory, "tiny_vision_card.md", facts | {"samples": said})


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the tiny checkpoint of manifests/tiny-vision.yaml.")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to train; default 20")
    parser.add_argument(
        "--output", type=Path, default=Path("manifests/tiny-vision"), help="directory to write or replace"
    )
    return parser.parse_args()


def main() -> None:
    """Trains, measures and publishes."""
    options = parse_options()
    torch.set_num_threads(1)  # leaves the machine usable, and sums come in one order
    torch.manual_seed(SEED)
    tokenizer = train_tiny.train_tokenizer(tiny_pictures.texts(), VOCABULARY, SPECIAL)
    encoder, model = Encoder(tokenizer), new_model(tokenizer)
    steps, pictures = train(model, encoder, options.minutes)
    model.eval()
    results = measured(model, encoder)
    print("\n".join(map(str, results)), flush=True)
    facts = {
        "minutes": f"{options.minutes:g}",
        "steps": f"{steps:,}",
        "batch": str(BATCH),
        "pictures": f"{pictures:,}",
        "window": str(WINDOW),
    }
    facts |= {"parameters": f"{model.num_parameters():,}", "vocabulary": str(tokenizer.get_vocab_size())}
    facts |= {"quality": "\n".join(map(str, results))}
    train_tiny.publish(options.output, partial(write, model, encoder, facts))


if __name__ == "__main__":
    main()
