"""The default network: ten 3x3 convolutions in five blocks, and one dense layer.

`python -m cnnkit.models.small_vgg WEIGHTS.npz default.onnx` writes the file that cnnkit ships.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Network, Preprocessing, hookimpl
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.model import Model
from cnnkit.models.architecture import Architecture
from cnnkit.models.weights.filling import read_weights

WIDTHS = (16, 32, 64, 128, 256)
"""The channels of each block."""
CLASSES, SIDE = 10, 128
LICENCE = "CC BY 4.0; trained on Caltech-101 (Li, Andreeto, Ranzato, Perona 2022, CC BY 4.0)"


def small_vgg(weights: Mapping[str, NDArray[Any]], labels: Sequence[str], name: str = "default") -> Model:
    """The network after Simonyan and Zisserman 2014, of the widths that the weights have.

    `weights` hold `block{b}_conv{c}.kernel` (outputs, inputs, 3, 3) and `.bias`, b from 1 up and c in 1, 2,
    and `predictions.kernel` (features, classes) and `.bias`. A layer has the name and the value that Keras
    gives it: a convolution's is that after its ReLU.
    """
    graph = Builder(name)

    def parameters(layer: str) -> list[str]:
        return [
            graph.constant(np.asarray(weights[f"{layer}.{part}"], np.float32), f"{layer}.{part}")
            for part in ("kernel", "bias")
        ]

    features = graph.input("input", ("batch", 3, "height", "width"))
    for block in count(1):
        if f"block{block}_conv1.kernel" not in weights:
            break
        if block > 1:
            features = graph.op.MaxPool(
                features, kernel_shape=[2, 2], strides=[2, 2], name=f"block{block - 1}_pool"
            )
        for layer in (f"block{block}_conv1", f"block{block}_conv2"):
            features = graph.op.Conv(features, *parameters(layer), pads=[1, 1, 1, 1], name=f"{layer}/conv")
            features = graph.op.Relu(features, name=layer)
    features = graph.op.GlobalAveragePool(features, name="global_average_pooling")
    features = graph.op.Flatten(features, name="flatten")
    scores = graph.op.Gemm(features, *parameters("predictions"), name="predictions")
    graph.output(graph.op.Softmax(scores, axis=1, name="probabilities"), ("batch", len(labels)))
    return Model.of(
        graph.model(),
        preprocessing=Preprocessing.preset("tf", height=128, width=128),
        labels=labels,
        name=name,
        licence=LICENCE,
    )


def untrained(weights: str | Path = "random:0", *, classes: int = CLASSES) -> Model:
    """The network as it is trained: with a batch norm behind each convolution, of the widths in WIDTHS.

    `weights` are "random:SEED".
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


def main(weights: str, output: str) -> None:
    """Build the network from the weights of the training recipe and write it."""
    with np.load(weights) as arrays:
        model = small_vgg(arrays, [str(label) for label in arrays["labels"]])
    model.save(Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
