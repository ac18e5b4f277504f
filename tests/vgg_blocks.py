"""The first blocks of VGG19, as many as there are weights for, as a model of cnnkit's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cnnkit
from cnnkit.models.architecture import Architecture, Parameter


class _Given:
    """Weights by the parameters' names."""

    family = "keras"

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        self._arrays = arrays

    def fill(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Parameter, NDArray[Any]]]:
        for parameter in parameters:
            yield parameter, self._arrays[parameter.name]

    def finish(self, model: cnnkit.Model) -> cnnkit.Model:
        return model


def vgg19_blocks(weights: Mapping[str, NDArray[np.float32]], preprocessing: str = "caffe") -> cnnkit.Model:
    """Of weights under Keras' names, "block1_conv1.kernel" and ".bias"; pictures of any size."""
    net = Architecture("vgg19")
    x = net.input()
    for name in sorted(name.removesuffix(".kernel") for name in weights if name.endswith(".kernel")):
        if name.endswith("_conv1") and name != "block1_conv1":
            x = net.max_pool(x, f"block{int(name[5]) - 1}_pool", 2, 2)
        x = net.convolution(x, name, weights[f"{name}.kernel"].shape[3], 3, activation="relu")
    return net.model(x, _Given(weights), cnnkit.Preprocessing.preset(preprocessing))
