"""Random filters of many sizes: a network for textures that nobody trained (Ustyuzhaninov, Brendel, Gatys and
Bethge 2016, arXiv:1606.00021; ivust/random-texture-synthesis 1107736).

One layer: convolutions of eight sizes side by side, their ReLUs, and all maps in one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cnnkit import Model, Network, Preprocessing, UsageError, hookimpl
from cnnkit.models.architecture import Architecture, Parameter
from cnnkit.models.weights.filling import Family

SIDES = (3, 5, 7, 11, 15, 23, 37, 55)
"""Of the filters, in pixels."""
MAPS = 128
"""For each side."""


@dataclass(frozen=True)
class GlorotWeights:
    """Kernels of a seed, uniform within ±√(6 / (side² · (inputs + outputs))) (Glorot and Bengio 2010)."""

    seed: int
    family: Family = "random"

    def fill(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Parameter, NDArray[Any]]]:
        """A kernel depends on the seed and its name only."""
        for parameter in parameters:
            height, width, inputs, outputs = parameter.shape
            limit = np.sqrt(6 / (height * width * (inputs + outputs)))
            generator = np.random.default_rng([self.seed, crc32(parameter.name.encode())])
            yield parameter, generator.uniform(-limit, limit, parameter.shape)

    def finish(self, model: Model) -> Model:
        return model


def random_filters(weights: str | Path = "random:0", *, maps: int = MAPS) -> Model:
    """The network of a seed, "random:SEED", for pictures of any size; `maps` for each side of the filters.

    It is shown what Caffe's networks are shown, as there. Raises UsageError for weights of a file.
    """
    kind, _, seed = str(weights).partition(":")
    if kind != "random" or not seed.isdecimal():
        raise UsageError(f"these filters are random: say random:SEED, such as random:1, not '{weights}'.")
    net = Architecture("random-filters")
    x = net.input()
    layers = [
        net.convolution(x, f"filters{side}", maps, side, bias=False, activation="relu") for side in SIDES
    ]
    every = net.concatenate(layers, "filters")
    return net.model(every, GlorotWeights(int(seed)), Preprocessing.preset("caffe"))


def _row(name: str, maps: int, summary: str) -> Network:
    return Network(name, summary, licence="MIT", build=partial(random_filters, maps=maps), weights="random:0")


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    return [
        _row("random-filters", MAPS, "random filters of eight sizes, for textures"),
        _row("random-filters-32", 32, "a quarter of them: four times as quick"),
    ]
