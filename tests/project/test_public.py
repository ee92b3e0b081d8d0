"""What a shell and an editor show of `aot`."""

from importlib import metadata
from pathlib import Path

import aot


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
