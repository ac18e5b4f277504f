"""Published style transfer programs, written anew on torch from their formulas, each as it has them itself.

In float64, so that rounding leads only one of two that are compared astray.

Pictures are arrays (height, width, 3), RGB, uint8; weights are Keras' of VGG19 by name ("block1_conv1.kernel"
and ".bias"). Losses come as floats, in this order: each style layer, the content, what else there is.
What the programs themselves compute is in `tests/plugins/synthesis/test_programs_oracle.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Weights = Mapping[str, NDArray[np.float32]]
Tensor = Any

MEANS = (103.939, 116.779, 123.68)
"""Caffe's, of blue, green and red."""


class Layers(NamedTuple):
    """Those that a loss watches."""

    style: Sequence[str]
    content: str

    @property
    def last(self) -> str:
        return max(*self.style, self.content)


THREE_BLOCKS = Layers(("block1_conv1", "block2_conv1", "block3_conv1"), "block3_conv3")
"""What the programs' layers become where there are no weights for blocks 4 and 5."""
OF_TUTORIAL = Layers(
    ("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2", "block3_conv1"), "block2_conv2"
)
"""PyTorch's tutorial: conv_1 to conv_5, and conv_4."""


def fed_pixels_of_one(weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Caffe's network for torchvision's input, (x - mean) / deviation of RGB in 0..1.

    Its features are 1/255 of Caffe's, but for the means, which differ by less than a grey level.
    """
    scaled = {name: value if name.endswith("kernel") else value / 255 for name, value in weights.items()}
    deviations = np.array([0.229, 0.224, 0.225], np.float32)[:, None]
    first = scaled["block1_conv1.kernel"][:, :, ::-1]
    scaled["block1_conv1.kernel"] = np.ascontiguousarray(first * deviations)
    return {name: value.astype(np.float32) for name, value in scaled.items()}


def vgg19(weights: Weights, last: str, before_relu: bool = False) -> Callable[[Tensor], dict[str, Tensor]]:
    """For x (N, 3, H, W) each convolution's value, up to the last one asked for."""
    import torch
    from torch.nn import functional

    names = sorted(name.removesuffix(".kernel") for name in weights if name.endswith(".kernel"))
    tensors = {name: torch.from_numpy(value).double() for name, value in weights.items()}
    for name in names:  # from (height, width, inputs, outputs)
        tensors[f"{name}.kernel"] = tensors[f"{name}.kernel"].permute(3, 2, 0, 1).contiguous()

    def values(x: Tensor) -> dict[str, Tensor]:
        found = {}
        for name in names[: names.index(last) + 1]:
            if name.endswith("_conv1") and name != "block1_conv1":
                x = functional.max_pool2d(x, 2)
            sums = functional.conv2d(x, tensors[f"{name}.kernel"], tensors[f"{name}.bias"], padding=1)
            x = functional.relu(sums)
            found[name] = sums if before_relu else x
        return found

    return values


# Keras' examples: pictures (1, height, width, BGR), raw Gram matrices, sums


def caffe_nhwc(picture: Pixels) -> Tensor:
    import torch

    return torch.from_numpy(picture[None, :, :, ::-1] - np.array(MEANS))


def keras_loss(
    weights: Weights, content: Pixels, style: Pixels, layers: Layers = THREE_BLOCKS, factor: float = 1.0
) -> Callable[[Tensor], list[Tensor]]:
    """The parts, last the total variation; all weights of the older example are 1e6 of keras-io's."""
    rows, columns = content.shape[:2]
    network = vgg19(weights, layers.last)

    def seen(x: Tensor) -> dict[str, Tensor]:
        return network(x.permute(0, 3, 1, 2))

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T

    wanted = seen(caffe_nhwc(style))
    grams = {layer: gram(wanted[layer]) for layer in layers.style}
    kept = seen(caffe_nhwc(content))[layers.content]

    def parts(x: Tensor) -> list[Tensor]:
        found = seen(x)
        share = factor * 1e-6 / len(layers.style) / (4 * 3**2 * (rows * columns) ** 2)
        each = [share * (gram(found[layer]) - grams[layer]).square().sum() for layer in layers.style]
        each.append(factor * 2.5e-8 * (found[layers.content] - kept).square().sum())
        down = x[:, :-1, :-1] - x[:, 1:, :-1]
        right = x[:, :-1, :-1] - x[:, :-1, 1:]
        return [*each, factor * 1e-6 * (down**2 + right**2).pow(1.25).sum()]

    return parts


def keras_sgd(
    weights: Weights, content: Pixels, style: Pixels, iterations: int, layers: Layers = THREE_BLOCKS
) -> list[float]:
    """The loss in front of each update, learning rate 100 · 0.96^(k / 100)."""
    parts = keras_loss(weights, content, style, layers)
    x = caffe_nhwc(content).requires_grad_()
    losses = []
    for number in range(iterations):
        loss = sum(parts(x))
        loss.backward()
        x.data -= 100 * 0.96 ** (number / 100) * x.grad
        x.grad = None
        losses.append(loss.item())
    return losses


def keras_lbfgs(
    weights: Weights, content: Pixels, style: Pixels, rounds: int, layers: Layers = THREE_BLOCKS
) -> list[list[float]]:
    """The loss at each evaluation of each call of SciPy, which remembers nothing of the one before."""
    import torch
    from scipy.optimize import fmin_l_bfgs_b

    parts = keras_loss(weights, content, style, layers, factor=1e6)
    seen: list[float] = []

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = torch.from_numpy(flat.reshape(1, *content.shape)).requires_grad_()
        loss = sum(parts(x))
        loss.backward()
        seen.append(loss.item())
        return loss.item(), x.grad.numpy().ravel()

    x = caffe_nhwc(content).numpy().ravel()
    calls = []
    for _ in range(rounds):
        seen.clear()
        x, _, _ = fmin_l_bfgs_b(loss_and_gradient, x, maxfun=20)
        calls.append(list(seen))
    return calls


# PyTorch's tutorial: pictures in 0..1, clamped in the closure


def tutorial_loss(
    weights: Weights, content: Tensor, style: Tensor, layers: Layers = OF_TUTORIAL
) -> Callable[[Tensor], list[Tensor]]:
    """The parts; `weights` are of a network for ImageNet's means and deviations, watched before its ReLUs."""
    import torch
    from torch.nn import functional

    network = vgg19(weights, layers.last, before_relu=True)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[:, :, None, None]

    def seen(x: Tensor) -> dict[str, Tensor]:
        return network((x - mean) / deviation)

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T / features.numel()

    wanted = seen(style)
    grams = {layer: gram(wanted[layer]) for layer in layers.style}
    kept = seen(content)[layers.content]

    def parts(x: Tensor) -> list[Tensor]:
        found = seen(x)
        each = [1e6 * functional.mse_loss(gram(found[layer]), grams[layer]) for layer in layers.style]
        return [*each, functional.mse_loss(found[layers.content], kept)]

    return parts


def unit_nchw(picture: Pixels) -> Tensor:
    import torch

    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].double().contiguous() / 255


def pytorch_tutorial(weights: Weights, content: Pixels, style: Pixels, steps: int) -> list[float]:
    """The loss at each evaluation; a step of torch's L-BFGS has twenty."""
    import torch

    parts = tutorial_loss(weights, unit_nchw(content), unit_nchw(style))
    x = unit_nchw(content).requires_grad_()
    optimizer = torch.optim.LBFGS([x])
    losses = []

    def closure() -> Tensor:
        x.data.clamp_(0, 1)
        optimizer.zero_grad()
        loss = sum(parts(x))
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return losses


# TensorFlow's tutorial: pictures in 0..1, Gram matrices as means over places


def tensorflow_loss(
    weights: Weights, content: Pixels, style: Pixels, variation: float = 30.0, layers: Layers = THREE_BLOCKS
) -> Callable[[Tensor], list[Tensor]]:
    """The parts, of which the last is the second run's total variation."""
    import torch

    network = vgg19(weights, layers.last)

    def seen(x: Tensor) -> dict[str, Tensor]:
        return network((255 * x.flip(3) - torch.tensor(MEANS, dtype=torch.float64)).permute(0, 3, 1, 2))

    def gram(features: Tensor) -> Tensor:
        return torch.einsum("bcij,bdij->bcd", features, features) / features[0, 0].numel()

    wanted = seen(unit_nhwc(style))
    grams = {layer: gram(wanted[layer]) for layer in layers.style}
    kept = seen(unit_nhwc(content))[layers.content]

    def parts(x: Tensor) -> list[Tensor]:
        found = seen(x)
        share = 1e-2 / len(layers.style)
        each = [share * ((gram(found[layer]) - grams[layer]) ** 2).mean() for layer in layers.style]
        each.append(1e4 * ((found[layers.content] - kept) ** 2).mean())
        down, right = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
        return [*each, variation * (down.abs().sum() + right.abs().sum())]

    return parts


def unit_nhwc(picture: Pixels) -> Tensor:
    import torch

    return torch.from_numpy(picture[None] / 255)


def tensorflow_adam(
    weights: Weights, content: Pixels, style: Pixels, iterations: int, variation: float = 30.0
) -> list[float]:
    """The loss in front of each update: Keras' Adam, whose epsilon is added to the uncorrected root."""
    import torch

    parts = tensorflow_loss(weights, content, style, variation)
    x = unit_nhwc(content).requires_grad_()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    losses = []
    for number in range(1, iterations + 1):
        loss = sum(parts(x))
        loss.backward()
        mean += (x.grad - mean) * (1 - 0.99)
        square += (x.grad**2 - square) * (1 - 0.999)
        rate = 0.02 * (1 - 0.999**number) ** 0.5 / (1 - 0.99**number)
        x.data = (x.data - rate * mean / (square.sqrt() + 0.1)).clamp(0, 1)
        x.grad = None
        losses.append(loss.item())
    return losses


# Gatys' own code, and jcjohnson's


def gatys_losses(
    weights: Weights, content: Pixels, style: Pixels, x: Pixels, layers: Layers = THREE_BLOCKS
) -> list[float]:
    """Of a picture x: Gram matrices as means over places, their mean squares by 1e3 / channels²."""
    import torch

    network = vgg19(weights, layers.last)

    def seen(picture: Pixels) -> dict[str, Tensor]:
        bgr = unit_nchw(picture)[:, [2, 1, 0]]
        means = torch.tensor([0.40760392, 0.45795686, 0.48501961]).double()[:, None, None]
        return network(255 * (bgr - means))

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)
        return flat.bmm(flat.transpose(1, 2)) / flat.shape[2]

    found, wanted, kept = seen(x), seen(style), seen(content)
    losses = [
        1e3 / found[layer].shape[1] ** 2 * (gram(found[layer]) - gram(wanted[layer])).square().mean()
        for layer in layers.style
    ]
    losses.append((found[layers.content] - kept[layers.content]).square().mean())
    return [loss.item() for loss in losses]


def jcjohnson_losses(
    weights: Weights,
    content: Pixels,
    style: Pixels,
    x: Pixels,
    layers: Layers = THREE_BLOCKS,
    white: int = 256,
) -> list[float]:
    """Of a picture x: Gram matrices by channels and places.

    Last the total variation that jcjohnson's gradient is of. neural-style-pt differs in its `white`, 255, and
    has another total variation.
    """
    import torch

    def shown(picture: Pixels) -> Tensor:
        return (
            white * unit_nchw(picture)[:, [2, 1, 0]] - torch.tensor(MEANS, dtype=torch.float64)[:, None, None]
        )

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T / features.numel()

    network = vgg19(weights, layers.last)
    found, wanted, kept = (network(shown(picture)) for picture in (x, style, content))
    losses = [100 * (gram(found[layer]) - gram(wanted[layer])).square().mean() for layer in layers.style]
    losses.append(5 * (found[layers.content] - kept[layers.content]).square().mean())
    p = shown(x)
    down, right = p[..., 1:, :-1] - p[..., :-1, :-1], p[..., :-1, 1:] - p[..., :-1, :-1]
    losses.append(1e-3 / 2 * (down.square().sum() + right.square().sum()))
    return [loss.item() for loss in losses]


def pt_variation(x: Pixels) -> float:
    """Of neural-style-pt: 1e-3 (Σ|dx| + Σ|dy|), of values 0..255."""
    p = unit_nchw(x) * 255
    return 1e-3 * float(p.diff(dim=2).abs().sum() + p.diff(dim=3).abs().sum())
