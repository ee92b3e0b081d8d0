"""What a shell and an editor show of `aot`."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

import pytest

import aot
from aot.runtime.options import GenerateOptions, RequestOptions
from aot.sampling import SamplingParams

ROOT = Path(__file__).parents[2]
CALLS = """
import aot, numpy
model = aot.load("bundle", policy="strict", verify="never", replicas="all")
reveal_type(model.generate("a text", top_k=2, stop=["x"]))
reveal_type(model.generate([1, 2], n=1))
reveal_type(model.generate([{"role": "user", "content": "a text"}], template={"tools": []}))
reveal_type(model.generate(numpy.zeros(3, numpy.int32)))
reveal_type(model.generate("a text", n=4))
reveal_type(model.generate("a text", n=int("4")))
reveal_type(model.generate(["a text", [1, 2]]))
reveal_type(model.generate([[1], [2]], n=2))
texts: list[str] = ["a text"]
reveal_type(model.generate(texts))
reveal_type(list(model.stream("a text", seed=1)))
reveal_type(model.call("prefill", tokens=[[1, 2]], lengths=numpy.array([2])))
"""
ONE, SEVERAL = "aot.runtime.sequence.Result", "list[aot.runtime.sequence.Result]"
GIVEN = [ONE, ONE, ONE, ONE, SEVERAL, f"{ONE} | {SEVERAL}", *[SEVERAL] * 3, "list[str]", "aot.runtime.call.Outputs"]
WRONG = {
    'model.generate("a text", top_p="0.9")': "No overload variant",
    'model.generate("a text", max_tokens=3)': "No overload variant",
    'model.generate("a text").finish': '"Result" has no attribute "finish"',
    'model.stream("a text", n=2)': 'Argument "n" to "stream" of "Model" has incompatible type "Literal[2]"',
    'model.stream("a text", max_tokens=3)': 'Unexpected keyword argument "max_tokens" for "stream"',
    'aot.load("bundle", policy="strikt")': 'Argument "policy" to "load" has incompatible type "Literal[\'strikt\']"',
}


def test_every_public_name_is_listed_and_there() -> None:
    assert set(dir(aot)) == {*aot.__all__, "__version__"}
    assert aot.__version__ == metadata.version("jax-aot")
    assert all(getattr(aot, name).__name__ == name for name in aot.__all__)


def test_what_is_loaded_and_made_is_shown_in_a_line(tiny_bundle: Path) -> None:
    with aot.load(tiny_bundle) as model:
        result = model.generate("def main(", max_new_tokens=2, seed=1)
        shown = [repr(model), repr(model.bundle), repr(result)]

    assert all("\n" not in line and len(line) < 100 + len(str(tiny_bundle)) + 64 for line in shown), shown
    assert str(tiny_bundle) in shown[0]
    assert model.bundle.digest in shown[1]
    assert str(result.token_ids) in shown[2]
    assert repr(model).endswith("closed)")


def test_the_options_that_an_editor_offers_are_those_that_a_call_takes() -> None:
    request = {name: kind for name, kind in get_type_hints(RequestOptions).items() if name != "sampling"}
    drawing = {name: kind | None for name, kind in get_type_hints(SamplingParams).items()}

    assert {**get_type_hints(GenerateOptions), "n": int | None} == {**request, **drawing}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[str]:
    """What mypy says of the calls and of the wrong ones, a line each."""
    path = tmp_path_factory.mktemp("types") / "calls.py"
    path.write_text(CALLS + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", "--no-pretty", "--hide-error-context", path]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_type_checker_knows_what_a_call_gives(told: list[str]) -> None:
    revealed = [line.split('"')[1] for line in told if "Revealed type" in line]

    assert revealed == GIVEN


def test_a_type_checker_refuses_what_a_call_refuses(told: list[str]) -> None:
    first = len(CALLS.splitlines()) + 1
    said = [[each for each in told if f"calls.py:{first + line}: error: " in each] for line in range(len(WRONG))]

    assert all(words in "".join(each) for words, each in zip(WRONG.values(), said, strict=True)), told
