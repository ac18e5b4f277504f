"""The networks of torchvision, seeded and small, as ONNX files of either exporter, with torch's gradients."""

import contextlib
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


def _declare_detection_operators() -> torch.library.Library | None:
    """Torchvision imports only where torch knows `nms`, though its compiled part be missing or for CUDA."""
    specification = importlib.util.find_spec("torchvision")
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'")
    try:
        torch.ops.load_library(Path(specification.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


_detection_operators = _declare_detection_operators()

from torchvision import models  # noqa: E402  the declaration comes first

CLASSES = 10

Exporter = Literal["old", "old-preserve", "new", "new-unoptimized"]

EXPORTERS: Mapping[Exporter, Mapping[str, Any]] = {
    "old": {"dynamo": False},
    "old-preserve": {
        "dynamo": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
    },
    "new": {"dynamo": True, "external_data": False},
    "new-unoptimized": {"dynamo": True, "external_data": False, "optimize": False},
}
"""What `torch.onnx.export` is given: `old` and `new` fold the weights, the other two keep each parameter."""


@dataclass(frozen=True)
class Network:
    """How a network is built, and at what height and width: legal, small, and odd on the way down."""

    build: Callable[[], nn.Module]
    size: tuple[int, int] = (64, 72)
    pictures: tuple[int, ...] = (0, 1)
    """Seeds of the input's pictures, for which no unit lies so near a kink that rounding decides its side.

    A flipped unit moves the gradient by up to a tenth. For these pictures the gradient in float64 moves by
    less than 1e-4 under draws that put every parameter off by 1e-7, about what the rounding of float32 does.
    """
    arguments: Mapping[Exporter, Mapping[str, Any]] = field(default_factory=dict)
    """What an exporter needs besides `EXPORTERS` to export this network at all."""
    failures: Mapping[Exporter, str] = field(default_factory=dict)
    """The exporters that cannot export this network, and why."""


class Exported(NamedTuple):
    path: Path
    module: nn.Module
    x: Tensor


class Gradients(NamedTuple):
    """Gradients of `sum(output * cotangent)`; the parameters by their names in torch."""

    output: Tensor
    cotangent: Tensor
    x: Tensor
    parameters: dict[str, Tensor]


def _torchvision(build: Callable[..., nn.Module], **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: build(weights=None, num_classes=CLASSES, **arguments)


def _vgg16() -> nn.Module:
    """VGG16 with a narrow head: the original pools 2x2 up to 7x7, which `old` refuses, and weighs 540 MB."""
    network = models.vgg16(weights=None, init_weights=False, num_classes=CLASSES)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier[0] = nn.Linear(512 * 2 * 2, 256)
    network.classifier[3] = nn.Linear(256, 256)
    network.classifier[6] = nn.Linear(256, CLASSES)
    return network


# Without their auxiliary heads Inception and GoogLeNet are the graphs that they are in eval mode with them.
_NO_HEADS = {"aux_logits": False, "init_weights": False}

NETWORKS: Mapping[str, Network] = {
    "resnet18": Network(_torchvision(models.resnet18), pictures=(6, 3)),
    "vgg16": Network(_vgg16, pictures=(1, 2)),
    "densenet121": Network(_torchvision(models.densenet121), pictures=(13, 10)),
    "mobilenet_v2": Network(_torchvision(models.mobilenet_v2), pictures=(16, 4)),
    "mobilenet_v3_small": Network(_torchvision(models.mobilenet_v3_small), pictures=(7, 1)),
    "mobilenet_v3_large": Network(_torchvision(models.mobilenet_v3_large), pictures=(40, 42)),
    "efficientnet_b0": Network(_torchvision(models.efficientnet_b0), pictures=(6, 7)),
    "inception_v3": Network(
        _torchvision(models.inception_v3, **_NO_HEADS), size=(75, 107), pictures=(10, 13)
    ),
    "googlenet": Network(_torchvision(models.googlenet, **_NO_HEADS), pictures=(0, 7)),
    # From 66 pixels each of its pools, rounded up, reaches past the edge; from 64 none does.
    "squeezenet1_1": Network(_torchvision(models.squeezenet1_1), size=(66, 72), pictures=(5, 0)),
    "shufflenet_v2_x1_0": Network(_torchvision(models.shufflenet_v2_x1_0), pictures=(5, 0)),
    "convnext_tiny": Network(_torchvision(models.convnext_tiny), pictures=(5, 4)),
    "regnet_y_400mf": Network(_torchvision(models.regnet_y_400mf), pictures=(7, 6)),
    "mnasnet1_0": Network(_torchvision(models.mnasnet1_0), pictures=(22, 17)),
    "vit_b_16": Network(_torchvision(models.vit_b_16, image_size=64), size=(64, 64)),
    "swin_t": Network(_torchvision(models.swin_t), pictures=(6, 2)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The network in eval mode, no parameter 0 or 1, and an input of shape (batch, 3, height, width)."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    module = network.build()
    with torch.no_grad():
        for part in module.modules():
            for parameter_name, parameter in part.named_parameters(recurse=False):
                _randomize(part, parameter_name, parameter)
        _measure_batch_norms(module, pictures(range(100, 108), network.size))
    return module, pictures(network.pictures, network.size)


def pictures(seeds: Iterable[int], size: tuple[int, int]) -> Tensor:
    """Blobs and grain, about -2 to 2; each picture depends on its seed alone."""
    made = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        blobs = torch.randn(1, 3, 4, 4, generator=generator)
        grain = torch.randn(1, 3, *size, generator=generator)
        made.append(nn.functional.interpolate(blobs, size, mode="bicubic") + 0.5 * grain)
    return torch.cat(made)


def _randomize(part: nn.Module, name: str, parameter: Tensor) -> None:
    noise = torch.randn_like(parameter)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    if isinstance(part, norms) and name == "weight":
        parameter.copy_(1 + 0.1 * noise)
    elif isinstance(part, nn.modules.batchnorm._BatchNorm):
        # Most units live, so a deep network is smooth enough to compare in float32.
        parameter.copy_(0.5 + 0.1 * noise)
    elif name in ("weight", "in_proj_weight"):
        parameter.copy_(noise * math.sqrt(2 / parameter[0].numel()))
    else:
        parameter.copy_(0.1 * noise)


def _measure_batch_norms(module: nn.Module, x: Tensor) -> None:
    """One pass sets the running statistics; dropout stays off, and the module ends in eval mode."""
    module.eval()
    momenta = {}
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            momenta[part] = part.momentum
            part.momentum = 1.0
            part.train()
    module(x)
    for part, momentum in momenta.items():
        part.momentum = momentum
    module.eval()


def export(name: str, exporter: Exporter, folder: Path) -> Exported:
    """Writes FOLDER/{name}.{exporter}.onnx, from `input` to `output`, all in one file."""
    network = NETWORKS[name]
    module, x = build(name)
    path = folder / f"{name}.{exporter}.onnx"
    arguments = {**EXPORTERS[exporter], **network.arguments.get(exporter, {})}
    # The exporters warn of their own age and talk on stdout.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, input_names=["input"], output_names=["output"], **arguments)
    return Exported(path, module, x)


def parameter_names(path: Path, module: nn.Module) -> dict[str, str]:
    """The initializers that are parameters of the module, value for value: name in ONNX to name in torch."""
    initializers = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    names = {}
    for name, parameter in module.named_parameters():
        tensor = initializers.get(name)
        if tensor is not None and np.array_equal(numpy_helper.to_array(tensor), parameter.detach().numpy()):
            names[name] = name
    return names


def torch_gradients(module: nn.Module, x: Tensor) -> Gradients:
    """Torch's own gradients; the cotangent is seeded, standard normal and of the shape of the output."""
    x = x.detach().clone().requires_grad_()
    output = module(x)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.dtype)
    parameters = dict(module.named_parameters())
    of_x, *others = torch.autograd.grad((output * cotangent).sum(), [x, *parameters.values()])
    return Gradients(output.detach(), cotangent, of_x, dict(zip(parameters, others, strict=True)))
