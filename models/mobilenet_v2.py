"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov and Chen 2018, arXiv:1801.04381, table 2), with Keras' names.

Seventeen blocks between two convolutions. A block widens by 1x1, filters each channel by 3x3, narrows by 1x1,
and is added to what came before where the shape allows it: the shortcuts join the narrow ends. There is a
batch norm behind every convolution, and a ReLU6 behind all that do not narrow.
"""

from collections.abc import Sequence
from pathlib import Path

from cnnkit import Model, Network, Preprocessing, UsageError, hookimpl
from cnnkit.models.architecture import Architecture, Padding, Value
from cnnkit.models.imagenet import CLASSES, keras_network
from cnnkit.models.weights.filling import read_weights

STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""The channels that the blocks of a stage narrow to, how many blocks it has, and the stride of the first."""
EXPANSION = 6
"""By how much a block widens; the very first does not."""

TORCH = {
    "Conv1": ("features.0.0", "conv_stem"),
    "bn_Conv1": ("features.0.1", "bn1"),
    "Conv_1": ("features.18.0", "conv_head"),
    "Conv_1_bn": ("features.18.1", "bn2"),
    "predictions": ("classifier.1", "classifier"),
}
"""What torchvision and timm call the modules outside of the blocks, …"""
TORCH_FIRST_BLOCK = {
    "depthwise": ("conv.0.0", "conv_dw"),
    "depthwise_BN": ("conv.0.1", "bn1"),
    "project": ("conv.1", "conv_pw"),
    "project_BN": ("conv.2", "bn2"),
}
"""… those of the first block, within it, …"""
TORCH_BLOCK = {
    "expand": ("conv.0.0", "conv_pw"),
    "expand_BN": ("conv.0.1", "bn1"),
    "depthwise": ("conv.1.0", "conv_dw"),
    "depthwise_BN": ("conv.1.1", "bn2"),
    "project": ("conv.2", "conv_pwl"),
    "project_BN": ("conv.3", "bn3"),
}
"""… and those of the others."""


def mobilenet_v2(
    weights: str | Path = "random:0",
    *,
    alpha: float = 1.0,
    top: bool = True,
    classes: int = CLASSES,
    size: tuple[int, int] | None = None,
    activation: str | None = "softmax",
) -> Model:
    """The network with the weights of a file or "random:SEED"; `alpha` times as wide as the paper's.

    It takes any size from 32 up unless a `size` (height, width) is given; it was made for 224. `top` are the
    average and the dense layer; `activation` of the scores is softmax, or None for logits. Weights of PyTorch
    want its symmetric padding, its epsilon and its preprocessing ("torch"), all others those of Keras ("tf").

    Raises UsageError for a smaller size or an `alpha` of 0 or less, and ModelError when the weights do not
    fit or cannot be read.
    """
    if alpha <= 0:
        raise UsageError(f"alpha is the width as a factor, such as 0.5 or 1.4, not {alpha:g}.")
    source = read_weights(weights)
    torch = dict(TORCH)
    padding: Padding = "same"
    preset, epsilon = "tf", 1e-3
    if source.family == "torch":
        padding, preset, epsilon = "symmetric", "torch", 1e-5

    net = Architecture("mobilenet_v2", size or (None, None), smallest=32)

    def normed(x: Value, name: str, relu: str | None = None) -> Value:
        x = net.batch_norm(x, name, epsilon)
        return net.activation(x, relu, "relu6") if relu else x

    x = net.convolution(net.input(), "Conv1", divisible(32 * alpha), 3, 2, padding, bias=False)
    x = normed(x, "bn_Conv1", "Conv1_relu")
    block = 0
    for stage, (filters, blocks, first_stride) in enumerate(STAGES):
        narrow = divisible(int(filters * alpha))
        for number in range(blocks):
            before, stride = x, 1 if number else first_stride
            prefix = f"block_{block}_" if block else "expanded_conv_"
            if block:
                x = net.convolution(x, f"{prefix}expand", EXPANSION * x.shape[1], 1, bias=False)
                x = normed(x, f"{prefix}expand_BN", f"{prefix}expand_relu")
            if stride == 2:
                x = net.zero_pad(x, f"{prefix}pad", padding)
            x = net.depthwise(x, f"{prefix}depthwise", 3, stride, "valid" if stride == 2 else "same")
            x = normed(x, f"{prefix}depthwise_BN", f"{prefix}depthwise_relu")
            x = net.convolution(x, f"{prefix}project", narrow, 1, bias=False)
            x = normed(x, f"{prefix}project_BN")
            if stride == 1 and before.shape[1] == narrow:
                x = net.add(before, x, f"{prefix}add")
            for layer, (torchvision, timm) in (TORCH_BLOCK if block else TORCH_FIRST_BLOCK).items():
                within = f"features.{block + 1}.{torchvision}", f"blocks.{stage}.{number}.{timm}"
                torch[f"{prefix}{layer}"] = within
            block += 1
    x = net.convolution(x, "Conv_1", divisible(1280 * max(alpha, 1)), 1, bias=False)
    x = normed(x, "Conv_1_bn", "out_relu")
    if top:
        x = net.global_average_pool(x, "global_average_pooling2d")
        x = net.dense(x, "predictions", classes, activation)
    height, width = size or (224, 224)
    preprocessing = Preprocessing.preset(preset, height=height, width=width)
    return net.model(x, source, preprocessing, torch)


def divisible(channels: float) -> int:
    """The nearest number that 8 divides, but none that is more than a tenth too small."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


LICENCE = "Apache-2.0 (Google)"


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    file = {"variant": "_1.0_224", "without": "_no_top"}
    return [
        keras_network("mobilenet_v2", "MobileNetV2", LICENCE, mobilenet_v2, top, size, **file)
        for top, size in ((True, 14_536_120), (False, 9_406_464))
    ]
