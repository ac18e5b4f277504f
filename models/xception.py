"""Xception (Chollet 2017, arXiv:1610.02357, figure 5), with Keras' names.

Two plain convolutions; three blocks of separable convolutions that halve the plane; eight that keep it, each
around a shortcut; one more that halves; two separable convolutions; an average, and the classes.
Every convolution has a batch norm behind it and a ReLU of its own.
"""

from collections.abc import Sequence
from pathlib import Path

from cnnkit import Model, Network, Preprocessing, hookimpl
from cnnkit.models.architecture import Architecture, Value
from cnnkit.models.imagenet import CLASSES, keras_network
from cnnkit.models.weights.filling import read_weights

HALVING = {2: (128, 128), 3: (256, 256), 4: (728, 728), 13: (728, 1024)}
"""The channels of the separable convolutions in the blocks that halve the plane."""
KEEPING = (728, 728, 728)
"""Those of the blocks in between."""
LAST = (1536, 2048)
"""Those of block 14."""


def xception(
    weights: str | Path = "random:0",
    *,
    top: bool = True,
    classes: int = CLASSES,
    size: tuple[int, int] | None = None,
    activation: str | None = "softmax",
) -> Model:
    """The network with the weights of a file or "random:SEED".

    It takes any size from 71 up unless a `size` (height, width) is given; it was made for 299. `top` are the
    average and the dense layer; `activation` of the scores is softmax, or None for logits.

    Raises UsageError for a smaller size, and ModelError when the weights do not fit or cannot be read.
    """
    net = Architecture("xception", size or (None, None), smallest=71)
    x = net.input()
    for layer, filters, stride in (("block1_conv1", 32, 2), ("block1_conv2", 64, 1)):
        x = net.convolution(x, layer, filters, 3, stride, "valid", bias=False)
        x = net.activation(net.batch_norm(x, f"{layer}_bn"), f"{layer}_act", "relu")
    for block in range(2, 14):
        before = x
        for number, filters in enumerate(HALVING.get(block, KEEPING), 1):
            layer = f"block{block}_sepconv{number}"
            if layer != "block2_sepconv1":  # which has block 1's ReLU in front of it
                x = net.activation(x, f"{layer}_act", "relu")
            x = net.batch_norm(net.separable(x, layer, filters), f"{layer}_bn")
        total = _numbered("add", block - 2)
        if block in HALVING:
            number = list(HALVING).index(block)
            shortcut = _numbered("conv2d", number), _numbered("batch_normalization", number)
            x = halved(net, x, before, f"block{block}_pool", *shortcut, total)
        else:
            x = net.add(x, before, total)
    for number, filters in enumerate(LAST, 1):
        layer = f"block14_sepconv{number}"
        x = net.batch_norm(net.separable(x, layer, filters), f"{layer}_bn")
        x = net.activation(x, f"{layer}_act", "relu")
    if top:
        x = net.global_average_pool(x, "avg_pool")
        x = net.dense(x, "predictions", classes, activation)
    height, width = size or (299, 299)
    preprocessing = Preprocessing.preset("tf", height=height, width=width)
    return net.model(x, read_weights(weights), preprocessing)


def halved(
    net: Architecture, x: Value, before: Value, pool: str, convolution: str, norm: str, total: str
) -> Value:
    """The maxima of `x` at half its size, plus a 1x1 convolution of what came `before`."""
    shortcut = net.convolution(before, convolution, x.shape[1], 1, stride=2, bias=False)
    x = net.max_pool(x, pool, 3, 2, "same")
    return net.add(x, net.batch_norm(shortcut, norm), total)


def _numbered(name: str, number: int) -> str:
    """What Keras calls a layer that nobody named, the `number`-th of its kind."""
    return f"{name}_{number}" if number else name


LICENCE = "MIT (François Chollet)"


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    return [
        keras_network("xception", "Xception", LICENCE, xception, top, size, checksum)
        for top, size, checksum in (
            (True, 91_884_032, "0a58e3b7378bc2990ea3b43d5981f1f6"),
            (False, 83_683_744, "b0042744bf5b25fce3cb969f33bebb97"),
        )
    ]
