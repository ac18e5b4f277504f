"""The small VGG, of which the default network is made: ten 3x3 convolutions in five blocks, a dense layer."""

from collections.abc import Sequence
from pathlib import Path

from cnnkit import Network, Preprocessing, hookimpl
from cnnkit.graphs.model import Model
from cnnkit.models.architecture import Architecture
from cnnkit.models.weights.filling import read_weights

WIDTHS = (16, 32, 64, 128, 256)
"""The channels of each block."""
CLASSES, SIDE = 10, 128


def untrained(weights: str | Path = "random:0", *, classes: int = CLASSES) -> Model:
    """The network after Simonyan and Zisserman 2014, with a batch norm behind each convolution.

    `weights` are "random:SEED". Layers have the names that Keras gives those of VGG.
    """
    net = Architecture("small-vgg")
    x = net.input()
    for block, width in enumerate(WIDTHS, 1):
        if block > 1:
            x = net.max_pool(x, f"block{block - 1}_pool", 2, 2)
        for number in (1, 2):
            x = net.normalised(x, f"block{block}_conv{number}", width, 3)
    x = net.global_average_pool(x, "global_average_pooling")
    x = net.dense(x, "predictions", classes, "softmax")
    unit = Preprocessing.preset("tf", height=SIDE, width=SIDE)
    return net.model(x, read_weights(weights), unit)


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    return [
        Network(
            name="small-vgg",
            summary="small VGG with batch norms and random weights, to be trained",
            licence="MIT",
            build=untrained,
            weights="random:0",
        )
    ]
