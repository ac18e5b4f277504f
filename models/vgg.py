"""VGG16 and VGG19 (Simonyan and Zisserman 2014, configurations D and E), with Keras' names.

Five blocks of 3x3 convolutions, each with its ReLU, and a maximum pool behind each block; then two dense
layers of 4096 numbers, and the classes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cnnkit import Model, Network, Preprocessing, Source, hookimpl
from cnnkit.models.architecture import Architecture
from cnnkit.models.imagenet import CLASSES, LABELS, TIMM, keras_network, with_top
from cnnkit.models.weights.filling import read_weights

WIDTHS = (64, 128, 256, 512, 512)
"""The channels of each block."""
CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""How many each block has."""
DENSE = 4096
SMALLEST = 32
"""The size that the five pools halve to one pixel."""


def vgg(
    name: str,
    weights: str | Path = "random:0",
    *,
    top: bool = True,
    classes: int = CLASSES,
    size: tuple[int, int] | None = None,
    activation: str | None = "softmax",
) -> Model:
    """The network `name`, vgg16 or vgg19, with the weights of a file or "random:SEED".

    `top` are the dense layers; they tie the network to one `size` (height, width), 224 by default. Without
    them it takes any from 32 up, unless a size is given. `activation` of the scores: softmax, or None for
    logits. Keras' weights take BGR minus the means ("caffe"), torchvision's RGB ("torch").

    Raises UsageError for a smaller size, and ModelError when the weights do not fit or cannot be read.
    """
    source = read_weights(weights)
    size = size or ((224, 224) if top else None)
    net = Architecture(name, size or (None, None), smallest=SMALLEST)
    torch: dict[str, tuple[str, ...]] = {}
    position = 0  # in torchvision's `features`
    x = net.input()
    for block, (convolutions, width) in enumerate(zip(CONVOLUTIONS[name], WIDTHS, strict=True), 1):
        for number in range(1, convolutions + 1):
            layer = f"block{block}_conv{number}"
            x = net.convolution(x, layer, width, 3, activation="relu")
            torch[layer] = (f"features.{position}",)
            position += 2
        x = net.max_pool(x, f"block{block}_pool", 2, 2)
        position += 1
    if top:
        plane = (*x.shape[2:], x.shape[1])
        x = net.flatten(x, "flatten")
        x = net.dense(x, "fc1", DENSE, "relu", flattened=plane)
        x = net.dense(x, "fc2", DENSE, "relu")
        x = net.dense(x, "predictions", classes, activation)
        torch |= {
            "fc1": ("classifier.0", "pre_logits.fc1"),
            "fc2": ("classifier.3", "pre_logits.fc2"),
            "predictions": ("classifier.6", "head.fc"),
        }
    height, width = size or (224, 224)
    preset = "torch" if source.family == "torch" else "caffe"
    preprocessing = Preprocessing.preset(preset, height=height, width=width)
    return net.model(x, source, preprocessing, torch)


LICENCE = "CC BY 4.0 (Visual Geometry Group, Oxford)"
TORCHVISION = "BSD-3-Clause (torchvision)"


def _keras(name: str, top: bool, checksum: str, size: int) -> Network:
    """A row for the weights that Keras publishes."""
    build = partial(vgg, name)
    return keras_network(name, name.upper(), LICENCE, build, top, size, checksum, dense="dense layers")


def _torchvision(name: str, size: int) -> Network:
    """A row for torchvision's weights, trained anew, as timm keeps them."""
    return Network(
        name=f"{name}-torchvision",
        summary=f"{name.upper()}, ImageNet, torchvision's weights",
        licence=TORCHVISION,
        build=with_top(partial(vgg, name), True),
        source=Source(f"{TIMM}/{name}.tv_in1k/resolve/main/model.safetensors", size=size),
        labels=LABELS,
    )


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    return [
        _keras("vgg16", True, "64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
        _keras("vgg16", False, "6d6bbae143d832006294945121d1f1fc", 58_889_256),
        _keras("vgg19", True, "cbe5617147190e668d6c5d5026f83318", 574_710_816),
        _keras("vgg19", False, "253f8cb515780f3b799900260a226db6", 80_134_624),
        _torchvision("vgg16", 553_000_000),
        _torchvision("vgg19", 575_000_000),
    ]
