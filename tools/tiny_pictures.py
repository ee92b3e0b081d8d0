"""The pictures that the tiny vision checkpoint learns from, drawn here, and the questions about them with answers."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

SIZES = ((48, 48), (64, 48), (48, 64))
"""Width and height, in pixels, of pictures as the model sees them."""
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 20),
    "purple": (140, 40, 170),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
ORDER = ("first", "second", "third")
COUNTS = ("none", "one", "two", "three")
THINGS = {"grass": "green", "the sky": "blue", "a banana": "yellow", "a tomato": "red", "coal": "black"}
NOTHING = "there is no picture"


@dataclass(frozen=True)
class Figure:
    """One shape. Lengths are parts of the picture's shorter side, places parts of its width and height."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    turned: float
    """Clockwise, in radians."""


@dataclass(frozen=True)
class Turn:
    """A question of a kind, and its answer."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Example:
    """Pictures, and turns about them: a conversation, or, plain, one question that its answer continues."""

    pictures: tuple[Image.Image, ...]
    turns: tuple[Turn, ...]
    plain: bool = False
    text_first: bool = False
    """Whether the first question of a conversation stands before the pictures."""


def figure(rng: random.Random) -> Figure:
    """A shape that lies within its picture."""
    radius = rng.uniform(0.25, 0.45)
    x, y = (rng.uniform(radius, 1 - radius) for _ in "xy")
    return Figure(rng.choice(SHAPES), rng.choice(list(COLOURS)), x, y, radius, rng.uniform(-0.3, 0.3))


def outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a shape that has some, around 0 and within a circle of radius 1."""
    if shape == "cross":
        arms = [(0.3, -0.9), (0.3, -0.3), (0.9, -0.3)]
        quarter: list[tuple[float, float]] = arms
        corners = []
        for _ in range(4):
            corners += quarter
            quarter = [(-y, x) for x, y in quarter]
        return corners
    count, first = {"triangle": (3, -math.pi / 2), "square": (4, -math.pi / 4)}[shape]
    angles = [first + 2 * math.pi * corner / count for corner in range(count)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def draw(shown: Figure, width: int, height: int, rng: random.Random) -> Image.Image:
    """A picture of the figure on a light background; colours vary a little."""
    background = tuple(rng.randint(200, 255) for _ in "rgb")
    colour = tuple(min(max(value + rng.randint(-15, 15), 0), 255) for value in COLOURS[shown.colour])
    picture = Image.new("RGB", (width, height), background)
    brush, radius = ImageDraw.Draw(picture), shown.radius * min(width, height)
    x, y = shown.x * width, shown.y * height
    if shown.shape == "circle":
        radius *= 0.85  # about the area of the others
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return picture
    sine, cosine = math.sin(shown.turned), math.cos(shown.turned)
    turned = [(a * cosine - b * sine, a * sine + b * cosine) for a, b in outline(shown.shape)]
    brush.polygon([(x + radius * a, y + radius * b) for a, b in turned], fill=colour)
    return picture


def picture(shown: Figure, rng: random.Random) -> Image.Image:
    """A figure drawn at one of SIZES, or larger, about as long as wide as one of them, and brought to that size."""
    size = width, height = rng.choice(SIZES)
    if rng.random() < 0.25:
        return draw(shown, width, height, rng)
    scale, stretched = rng.uniform(1, 4), rng.uniform(0.9, 1.1)
    large = draw(shown, round(width * scale * stretched), round(height * scale / stretched), rng)
    return large.resize(size, Image.Resampling.BICUBIC)


Asked = Callable[[Sequence[Figure], random.Random], tuple[str, str] | None]


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def colour(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    return "What colour is it?", shown[0].colour


def checked_colour(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    asked = rng.choice([shown[0].colour, rng.choice(list(COLOURS))])
    return f"Is it {asked}?", yes(asked == shown[0].colour)


def colour_of(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    at = rng.randrange(len(shown))
    return f"What colour is the {ORDER[at]}?", shown[at].colour


def place_of(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str] | None:
    """Of two colours, which picture has the one that is asked for."""
    if shown[0].colour == shown[1].colour:
        return None
    at = rng.randrange(2)
    return f"Which is {shown[at].colour}?", ORDER[at]


def same_colour(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    return "Do they have the same colour?", yes(shown[0].colour == shown[1].colour)


def counted(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    return "How many pictures are there?", COUNTS[len(shown)]


def thing(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    asked = rng.choice(list(THINGS))
    return f"What colour is {asked}?", THINGS[asked]


def named(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    return "Name a colour.", "red"


def unseen(shown: Sequence[Figure], rng: random.Random) -> tuple[str, str]:
    return "What colour is it?", NOTHING


KINDS: dict[int, dict[str, Asked]] = {
    0: {
        "What colour is grass?": thing,
        "Name a colour.": named,
        "What colour is it?": unseen,
        "How many pictures are there?": counted,
    },
    1: {
        "What colour is it?": colour,
        "Is it red?": checked_colour,
        "How many pictures are there?": counted,
    },
    2: {
        "What colour is the first?": colour_of,
        "Which is red?": place_of,
        "Do they have the same colour?": same_colour,
        "How many pictures are there?": counted,
    },
    3: {
        "What colour is the first?": colour_of,
        "How many pictures are there?": counted,
    },
}
"""What is asked, by the number of pictures: each kind by a question of it."""


def figures(count: int, rng: random.Random) -> list[Figure]:
    """So many, of which the second often has the colour of the first."""
    shown = [figure(rng) for _ in range(count)]
    if count == 2 and rng.random() < 0.3:
        shown[1] = Figure(
            shown[1].shape, shown[0].colour, *(getattr(shown[1], n) for n in ("x", "y", "radius", "turned"))
        )
    return shown


def example(count: int, turns: int, rng: random.Random) -> Example:
    """So many pictures, for which each of so many different kinds of questions has an answer."""
    kinds = rng.sample(list(KINDS[count].items()), turns)
    while True:
        shown = figures(count, rng)
        asked = [(kind, found) for kind, ask in kinds if (found := ask(shown, rng))]
        if len(asked) == turns:
            pictures = tuple(picture(each, rng) for each in shown)
            return Example(pictures, tuple(Turn(kind, *found) for kind, found in asked))


def question(given: Example, at: int) -> dict[str, Any]:
    """The message that asks the question of a turn, with the pictures' places where it is the first."""
    images = [{"type": "image"} for _ in given.pictures] if at == 0 else []
    text = [{"type": "text", "text": given.turns[at].question}]
    return {"role": "user", "content": text + images if given.text_first else images + text}


def texts() -> list[str]:
    """Everything that is said, and the roles."""
    rng = random.Random(0)
    turns = [turn for count in KINDS for _ in range(300) for turn in example(count, 1, rng).turns]
    said = [text for turn in turns for text in (turn.question, turn.answer, f"{turn.question} {turn.answer}")]
    return [*said, *["user\n", "assistant\n"] * len(turns)]
