import numpy as np

from aot import chain
from aot.chain import Array


class Scale:
    def __init__(self, width):
        self.width = width

    def abstract_weights(self):
        return {"factors": Array((self.width,), "float32")}

    def weights(self):
        yield "factors", np.linspace(0.0, 1.0, self.width, dtype="float32")

    def chains(self, combo, platform, mesh):
        features = Array((combo.batch_size, self.width), "float32")
        axes = ("batch_size", None)
        inputs, outputs = {"features": (features, axes)}, {"scaled": axes}
        return {"scale": chain.single("scale", self.scale, self.abstract_weights(), inputs, outputs)}

    def scale(self, weights, features):
        return {"scaled": features * weights["factors"]}


def make(width):
    return Scale(width)
