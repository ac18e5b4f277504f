"""How far a layer's features are from a style: by their Gram matrices, or by their mean and covariance.

In a guide (1, 1, H, W), whose mean square is 1, every place counts by its square; see `regions.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, losses

Array = NDArray[np.float32]
StyleDistance = Literal["gram", "wasserstein"]


class Moments(NamedTuple):
    """What a style is: the mean (C,) of features F at M places, and their Gram matrix F·Fᵀ/M (C, C)."""

    mean: Array
    gram: Array

    @staticmethod
    def of(features: Array, guide: Array | None = None) -> "Moments":
        """Those of features (1, C, H, W)."""
        rows = features.reshape(features.shape[1], -1)
        weights = np.ones_like(rows[:1]) if guide is None else guide.reshape(1, -1)
        guided = rows if guide is None else rows * weights
        with np.errstate(over="ignore", invalid="ignore"):  # the loss that comes of it is looked at
            mean = (guided * weights).mean(1, dtype=np.float64)
            gram = guided @ guided.T / np.float32(rows.shape[1])
        return Moments(np.asarray(mean, np.float32), np.asarray(gram, np.float32))

    @property
    def covariance_root(self) -> Array:
        """(C, C), with the floor of `losses.wasserstein`."""
        mean = self.mean.astype(np.float64)
        variances, directions = np.linalg.eigh(self.gram - np.outer(mean, mean))
        roots = np.sqrt(variances.clip(0) + losses.COVARIANCE_FLOOR)
        return np.asarray((directions * roots) @ directions.T, np.float32)


def mixed(styles: Sequence[tuple[float, Moments]]) -> Moments:
    """The moments of several styles at once, with these shares."""
    total = sum(share for share, _ in styles)
    means = [np.float32(share / total) * moments.mean for share, moments in styles]
    grams = [np.float32(share / total) * moments.gram for share, moments in styles]
    return Moments(np.stack(means).sum(0), np.stack(grams).sum(0))


class Distance(Protocol):
    """`style` is the name of a style in a layer; what is fed of it is called so, or begins with it."""

    def loss(self, builder: Builder, features: Any, style: str, guide: Any) -> Any:
        """Of features (1, C, H, W), from the fed targets."""

    def targets(self, style: str, moments: Moments) -> dict[str, Array]:
        """What is fed."""

    def gram(self, style: str, fed: Mapping[str, Array]) -> Array:
        """The style's Gram matrix, from what is fed."""


class _Gram:
    """¼ mean((G - A)²); fed is A, (C, C)."""

    def loss(self, builder: Builder, features: Any, style: str, guide: Any) -> Any:
        channels = features.shape[1]
        seen = features if guide is None else builder.op.Mul(features, guide)
        return losses.style(builder.op, seen, builder.input(style, (channels, channels)))

    def targets(self, style: str, moments: Moments) -> dict[str, Array]:
        return {style: moments.gram}

    def gram(self, style: str, fed: Mapping[str, Array]) -> Array:
        return fed[style]


class _Wasserstein:
    """`losses.wasserstein`; fed are `/mean` (C,) and `/root`, that of the covariance, (C, C)."""

    def loss(self, builder: Builder, features: Any, style: str, guide: Any) -> Any:
        channels = features.shape[1]
        mean = builder.input(f"{style}/mean", (channels,))
        root = builder.input(f"{style}/root", (channels, channels))
        return losses.wasserstein(builder.op, features, mean, root, guide)

    def targets(self, style: str, moments: Moments) -> dict[str, Array]:
        return {f"{style}/mean": moments.mean, f"{style}/root": moments.covariance_root}

    def gram(self, style: str, fed: Mapping[str, Array]) -> Array:
        mean, root = fed[f"{style}/mean"], fed[f"{style}/root"]
        floor = np.float32(losses.COVARIANCE_FLOOR) * np.eye(len(mean), dtype=np.float32)
        return np.asarray(root @ root - floor + np.outer(mean, mean), np.float32)


DISTANCES: Mapping[StyleDistance, Distance] = {"gram": _Gram(), "wasserstein": _Wasserstein()}
