"""tools/measure_chain: what it compares a chain with does the same."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType, SimpleNamespace

import numpy as np
import toy
from places import ROOT


def tool() -> ModuleType:
    path = ROOT / "tools" / "measure_chain"
    spec = spec_from_loader("measure_chain", SourceFileLoader("measure_chain", str(path)))
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.modules["measure_chain"] = made  # where dataclasses look for it
    spec.loader.exec_module(made)
    return made


def test_the_one_program_takes_what_the_chain_takes_and_gives_what_it_gives() -> None:
    made = toy.Toy(programs=3).chains(SimpleNamespace(batch_size=4), "cpu", {})["scale"]
    (call,) = tool().joined(made).calls
    x, weight = np.arange(4, dtype=np.float32), np.full(16, 2, np.float32)

    assert dict(call.takes) == {slot: slot for slot in ("input/x", "weight/weight")}
    assert dict(call.gives) == {"output/y": "output/y"}
    given = call.program.function(**{"input/x": x, "weight/weight": weight})
    np.testing.assert_array_equal(given["output/y"], ((x * 2 + 0) * 2 + 1) * 2 + 2)
