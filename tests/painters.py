"""Small networks that make pictures out of pictures, with seeded weights."""

from typing import Any

import numpy as np

from cnnkit import Builder, Model, Preprocessing

UNIT = Preprocessing(scale=1 / 255)


class Painter:
    """Builds one: each method appends to `x`, channels first."""

    def __init__(self, channels: int = 3, size: Any = ("height", "width"), seed: int = 0) -> None:
        self.b = Builder("painter")
        self.random = np.random.default_rng(seed)
        self.x = self.b.input("picture", ["batch", channels, *size])

    def conv(self, channels: int, kernel: int, stride: int = 1, padding: str = "reflect") -> "Painter":
        """Padded to keep the size, by mirroring, by zeros (constant), or not at all (valid)."""
        around = kernel // 2
        if padding not in ("valid", "constant"):
            pads = np.array([0, 0, around, around] * 2)
            self.x = self.b.op.Pad(self.x, pads, None, mode=padding)
        weights = self.random.standard_normal((channels, self.x.shape[1], kernel, kernel), np.float32)
        weights /= np.float32(np.sqrt(weights[0].size))
        bias = 0.1 * self.random.standard_normal(channels, np.float32)
        given = [around] * 4 if padding == "constant" else [0] * 4
        self.x = self.b.op.Conv(self.x, weights, bias, strides=[stride] * 2, pads=given)
        return self

    def normalised(self, kind: str) -> "Painter":
        """By "BatchNormalization" or "InstanceNormalization"."""
        channels = self.x.shape[1]
        scale, shift = (self.random.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(2))
        statistics = [] if kind == "InstanceNormalization" else [shift, scale]
        self.x = self.b.append(kind, [self.x, scale, shift, *statistics], name=self.b._fresh("norm"))
        return self

    def relu(self) -> "Painter":
        self.x = self.b.op.Relu(self.x)
        return self

    def enlarged(self) -> "Painter":
        self.x = self.b.op.Resize(
            self.x, None, [1.0, 1, 2, 2], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        return self

    def residual(self, kind: str) -> "Painter":
        before, channels = self.x, self.x.shape[1]
        self.conv(channels, 3).normalised(kind).relu().conv(channels, 3).normalised(kind)
        self.x = self.b.op.Add(self.x, before)
        return self

    def model(self, preprocessing: Preprocessing = UNIT, name: str = "painter") -> Model:
        self.b.output(self.x)
        return Model.of(self.b.model(), preprocessing=preprocessing, name=name)


def style(kind: str = "BatchNormalization", size: Any = ("height", "width")) -> Model:
    """In the manner of pytorch/examples fast_neural_style: strides, a residual block, nearest neighbours."""
    net = Painter(size=size).conv(4, 5).normalised(kind).relu().conv(6, 3, stride=2).normalised(kind).relu()
    net = net.conv(8, 3, stride=2).relu().residual(kind)
    return net.enlarged().conv(6, 3).relu().enlarged().conv(3, 5).model()


def super_resolution(factor: int, channels: int = 3, size: Any = ("height", "width")) -> Model:
    """Sub-pixel convolution (Shi et al. 2016)."""
    net = Painter(channels, size).conv(6, 5, padding="constant").relu()
    net = net.conv(channels * factor**2, 3, padding="constant")
    net.x = net.b.op.DepthToSpace(net.x, blocksize=factor, mode="CRD")
    return net.model(Preprocessing(scale=1 / 255, channels="grey") if channels == 1 else UNIT)
