"""The text that the tiny checkpoint learns from: the standard library of the Python that runs this, nothing else."""

import ast
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jinja2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELD_OUT = 20  # one module in so many
# what some installations leave out, and tables that are no text to learn from
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip", "lib2to3", "encodings"}
LEFT_OUT |= {"pydoc_data", "entities.py", "__hello__.py"}
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
QUESTIONS = ("What does {} do?", "What is {}?", "Explain {}.", "Describe {} in one line.")


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and documents of other modules to measure on."""

    code: list[str]
    chats: list[str]
    held_out_code: list[str]
    held_out_chats: list[str]


def read(seed: int) -> Corpus:
    """The standard library and pydoc's topics, one module in HELD_OUT set aside before anything looks at it."""
    from pydoc_data.topics import topics

    rng = random.Random(seed)
    modules = [(documents(source, rng), conversations(source, rng)) for source in sources()]
    modules += [([text + "\n"], []) for _, text in sorted(topics.items())]
    held_out, kept = modules[::HELD_OUT], [module for i, module in enumerate(modules) if i % HELD_OUT]
    return Corpus(distinct(kept, 0), distinct(kept, 1), distinct(held_out, 0), distinct(held_out, 1))


def distinct(modules: list[tuple[list[str], list[str]]], kind: int) -> list[str]:
    """The documents (0) or conversations (1) of these modules, equal ones once."""
    return list(dict.fromkeys(text for module in modules for text in module[kind]))


def sources() -> list[str]:
    """The standard library's modules in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    texts = []
    for path in paths:
        # _sysconfigdata holds the paths of the machine that built Python
        if not LEFT_OUT.intersection(path.parts) and not path.name.startswith("_sysconfigdata"):
            with tokenize.open(root / path) as file:
                texts.append(file.read())
    return texts


def pieces(source: str) -> list[str]:
    """A module's definitions, one each, and what stands between them; comments outside of both are left out."""
    lines = source.expandtabs().splitlines()
    found = []
    for defines, group in groupby(ast.parse(source).body, lambda node: isinstance(node, DEFINITIONS)):
        nodes = list(group)
        for part in [[node] for node in nodes] if defines else [nodes]:
            decorators = getattr(part[0], "decorator_list", [])
            first = min(node.lineno for node in [part[0], *decorators])
            found.append("\n".join(lines[first - 1 : part[-1].end_lineno]) + "\n")
    return found


def documents(source: str, rng: random.Random) -> list[str]:
    """One to three pieces of a module that follow each other, so that most documents begin with a definition."""
    left = pieces(source)
    found = []
    while left:
        count = rng.randint(1, 3)
        found.append("\n\n".join(left[:count]))
        left = left[count:]
    return found


def docstrings(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The public classes and functions below `node`, each with the first paragraph of its docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS) and not child.name.startswith("_"):
            if paragraph := (ast.get_docstring(child) or "").split("\n\n")[0]:
                yield prefix + child.name, " ".join(paragraph.split())
            yield from docstrings(child, f"{prefix}{child.name}.")


def conversations(source: str, rng: random.Random) -> list[str]:
    """Conversations of one to three questions about what a module's docstrings explain."""
    template = jinja2.Template(CHAT_TEMPLATE, keep_trailing_newline=True)
    left = list(docstrings(ast.parse(source)))
    found = []
    while left:
        count = rng.randint(1, 3)
        turns = [turn for name, text in left[:count] for turn in exchange(rng.choice(QUESTIONS).format(name), text)]
        found.append(template.render(messages=turns))
        left = left[count:]
    return found


def exchange(question: str, answer: str) -> list[dict[str, str]]:
    """A question and its answer as two messages of a conversation."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
