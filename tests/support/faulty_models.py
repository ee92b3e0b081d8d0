"""A small model of a user's own, and ways to get it wrong: what is appended to its module, and what is then said."""

GOOD = """
import numpy as np
from aot import chain
from aot.chain import Array, Call, Chain

AXES = ("batch_size", None)

def double(**arrays):
    return {"y": 2 * arrays["x"]}

class Model:
    def __init__(self):
        self.scale = np.ones(3, np.float32)
    def abstract_weights(self):
        return {"scale": Array((3,), "float32")}
    def weights(self):
        yield "scale", self.scale
    def chains(self, combo, platform, mesh):
        x = Array((combo.batch_size, 3), "float32")
        inputs, outputs = {"x": (x, AXES)}, {"y": AXES}
        return {"run": chain.single("run", self.run, self.abstract_weights(), inputs, outputs)}
    def run(self, weights, x):
        return {"y": x * weights["scale"]}

def make():
    return Model()

def program(combo, donated=()):
    return chain.program("double", double, {"x": Array((combo.batch_size, 3), "float32")}, set(donated))
"""

CALLS = """
def chains(self, combo, platform, mesh):
    p = program(combo{donated})
    return {{"run": Chain(({calls},), {inputs}, {outputs})}}
Model.chains = chains
"""


def calls(*pairs: tuple[str, str], inputs: str = "{'x': AXES}", outputs: str = "{'y': AXES}", donated: str = "") -> str:
    spelled = ", ".join(f"chain.call(p, {{'x': {takes!r}}}, {{'y': {gives!r}}})" for takes, gives in pairs)
    return CALLS.format(calls=spelled, inputs=inputs, outputs=outputs, donated=donated)


FACTORIES = {
    "own:make": {
        "syntax": ("def broken(:", r"'own:make': SyntaxError: "),
        "exit": ("raise SystemExit('enough')", r"'own:make': SystemExit: enough"),
        "raises": ("def make():\n    raise ValueError('two\\nlines')", r"'own:make': ValueError: two lines$"),
        "arguments": ("def make(width): ...", r"'own:make': TypeError: make\(\) missing 1 required .* 'width'"),
        "nothing": ("def make(): ...", r"'own:make': gave NoneType, which lacks abstract_weights, weights or"),
        "the class": ("def make():\n    return Model", r"abstract_weights: TypeError: .*missing 1 required"),
    },
    "own:mak": {"attribute": ("", r"'own:mak': AttributeError: module 'own\w*' has no attribute 'mak'")},
    "nowhere:make": {"module": ("", r"'nowhere:make': ModuleNotFoundError: No module named 'nowhere'")},
}

METHODS = {
    "shapes": ("Model.abstract_weights = lambda self: {'a': (3,)}", r"'a': must be aot.chain.Array, got tuple"),
    "no phase": ("Model.chains = lambda *_: {}", r"chains: must give a chain of at least one call"),
    "no chain": ("Model.chains = lambda *_: {'run': 3}", r"chains: 'run': must be aot.chain.Chain, got int"),
    "no call": ("Model.chains = lambda *_: {'run': Chain((), {}, {})}", r"at least one call for each phase"),
    "chains": ("Model.chains = lambda *_: {}[1]", r"'own:make': chains: KeyError: 1"),
    "traced": ("Model.run = lambda s, w, x: {'y': 1 + 'a'}", r"program run for cpu: TypeError: unsupported"),
    "branches": ("Model.run = lambda s, w, x: 1 if x[0, 0] else 2", r"for cpu: TracerBoolConversionError"),
    "constant": (
        "BIG = np.random.rand(3, 30000).astype('f')\nModel.run = lambda s, w, x: {'y': (x @ BIG)[:, :3]}",
        r"program run: holds a constant of 360000 bytes, more than 65536; make it a weight",
    ),
    "dtype": (
        "Model.abstract_weights = lambda self: {'scale': Array((3,), 'float64')}",
        r"argument 'weight/scale' is declared float64, and jax makes it float32; declare that",
    ),
    "no dtype": ("Model.abstract_weights = lambda self: {'scale': Array((3,), 'float31')}", r"TypeError: .*float31"),
    "results": ("Model.run = lambda s, w, x: {'z': x}", r"without a result: output/y, output/z"),
    "no results": ("Model.run = lambda s, w, x: x", r"program run for cpu: \w+Error: "),
    "unfilled": ("Model.weights = lambda self: iter(())", r"weights: 'scale' is in abstract_weights and was not given"),
    "weight shape": (
        "Model.weights = lambda self: [('scale', np.ones(4, 'f'))]",
        r"got 'scale' float32 \[4\], planned is 'scale' float32 \[3\]",
    ),
    "surplus weight": (
        "Model.weights = lambda self: [('scale', self.scale), ('more', self.scale)]",
        r"'more' was not planned",
    ),
    "no pairs": ("Model.weights = lambda self: [self.scale]", r"'own:make': weights: ValueError: "),
    "weights raise": ("Model.weights = lambda self: 1 / 0", r"'own:make': weights: ZeroDivisionError: "),
    "unhashable": (
        "class Odd(dict):\n    def __call__(self, **arrays): ...\nModel.run = Odd()",
        r"the function of program run: TypeError: unhashable type: 'Odd'",
    ),
}

CHAINS = {
    "unmatched": (calls(("value/w", "output/y")), r"takes 'value/w', which no earlier call gives"),
    "no such weight": (calls(("weight/w", "output/y")), r"takes 'weight/w', which is not among the model's weights"),
    "unknown slot": (
        calls(("inputs/x", "output/y")),
        r"takes 'inputs/x', which must be weight/… or gathered/… or input/… or ",
    ),
    "backwards": (
        calls(("input/x", "input/y")),
        r"gives 'input/y', which must be gathered/… or state/… or value/… or output/…",
    ),
    "wrong weight": (calls(("weight/scale", "output/y")), r"is float32 \[1, 3\], 'weight/scale' is float32 \[3\]"),
    "donated weight": (
        calls(("weight/scale", "output/y"), donated=", 'x'")
        + "Model.abstract_weights = lambda self: {'scale': Array((1, 3), 'float32')}",
        r"donates 'weight/scale', which other calls read",
    ),
    "odd donation": (calls(("input/x", "output/y"), donated=", 'z'"), r"donates 'z', which is no argument; it has x"),
    "lost state": (
        calls(("state/x", "output/y"), inputs="{}", donated=", 'x'"),
        r"reuses the memory of 'state/x', which no call gives anew",
    ),
    "used up": (
        calls(("input/x", "value/x"), ("input/x", "output/y"), donated=", 'x'"),
        r"takes 'input/x', which program double was given to reuse",
    ),
    "no axes": (calls(("input/x", "output/y"), inputs="{}"), r"input 'x' has no axes in the chain"),
    "no output": (calls(("input/x", "value/y")), r"output 'y' is in no call"),
    "few axes": (
        calls(("input/x", "output/y"), outputs="{'y': AXES[:1]}"),
        r"output 'y': has 2 axes, the chain names 1",
    ),
    "wrong axis": (
        calls(("input/x", "output/y"), inputs="{'x': AXES[::-1]}"),
        r"has 3 on the axis 'batch_size', which is 1 in this combo",
    ),
    "odd axis": (
        calls(("input/x", "output/y"), inputs="{'x': ('rows', None)}"),
        r"has 1 on the axis 'rows', which is None in this combo",
    ),
}

FAULTS = {name: ("own:make", *fault) for name, fault in (METHODS | CHAINS).items()}
FAULTS |= {name: (factory, *fault) for factory, faults in FACTORIES.items() for name, fault in faults.items()}
