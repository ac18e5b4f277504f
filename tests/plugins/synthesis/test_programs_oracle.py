"""Published programs: what they compute, restated on torch, and what cnnkit's presets compute.

The numbers are those of the programs' own functions, run once on these pictures and weights, with the layers
that the weights reach to: style block1_conv1 to block3_conv1, content block3_conv3. TensorFlow 2.21, Keras
3.15, torch 2.13 and SciPy 1.17 on an x86 CPU.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import style_reference as reference
from numpy.typing import NDArray
from PIL import Image
from vgg_blocks import vgg19_blocks

import cnnkit

pytestmark = pytest.mark.oracle

# keras-io examples/generative/neural_style_transfer.py 0896b2e: iterations 1 to 20, and 60
KERAS_SGD = (
    1745.71777, 1444.56042, 1199.23035, 1028.23877, 913.591675, 831.961853, 769.284424, 719.462646,
    678.900330, 645.419678, 617.318115, 593.255615, 572.493896, 554.340210, 538.431335, 524.222473,
    511.354065, 499.779327, 489.209442, 479.515503,
)  # fmt: skip
KERAS_SGD_60 = 329.378723
# keras examples/neural_style_transfer.py 08d33e6, with VGG19 and from the content, as its last version: the
# evaluations of the first call, and what the first three calls returned
KERAS_LBFGS = (
    1745718016, 1743942016, 1736836096, 1708403968, 1596276736, 1227160832, 2779819520, 948338944,
    774731008, 557665600, 442505216, 395666048, 366174432, 335232000, 312187520, 301964256, 289959424,
    279484352, 270085664, 263667712, 258764704,
)  # fmt: skip
KERAS_LBFGS_CALLS = (258764704, 215535040, 202459088)
# pytorch/tutorials advanced_source/neural_style_tutorial.py 0a7e686, with weights for pixels in 0..1:
# evaluations 1 to 20, and 60
PYTORCH_TUTORIAL = (
    42.1655540, 42.0449920, 137.572799, 20.5752963, 14.6591070, 11.3867131, 8.68138599, 7.94346845,
    6.13998294, 5.00399208, 4.57041919, 3.98289657, 3.57575774, 3.30094898, 3.12081051, 2.94560325,
    2.78046024, 2.66959441, 2.57923758, 2.48120654,
)  # fmt: skip
PYTORCH_TUTORIAL_60 = 1.78248626
# tensorflow/docs generative/style_transfer.ipynb 7c36502, its second run: steps 1 to 6
TENSORFLOW_ADAM = (1356006.125, 276874848, 98808576, 103771080, 117043296, 109622656)

# Of one picture: each style layer, the content, the total variation.
TENSORFLOW = (5026.06592, 416408.594, 3259082.75, 3308602624, 30133.3965)
GATYS = (368120.031, 7624667.0, 14918897.0, 330860.219)  # leongatys/PytorchNeuralStyleTransfer be6c8e2
NEURAL_STYLE_PT = (36811.9922, 762466.625, 1491889.50, 1654301.0, 256.134003)  # of ProGamerGov, 7251405
JCJOHNSON = (37621.4414, 776398.063, 1514132.88, 1665340.75)  # its losses, which are that port's, of 0..256


class Case:
    """Weights and pictures of 64 x 80 and 72 x 96."""

    def __init__(self, data: Path) -> None:
        with np.load(data / "weights" / "vgg19_block1_to_block3.npz") as file:
            self.weights = dict(file)
        images = data / "images"
        self.content = _picture(images / "content" / "tuebingen.jpg", (80, 64))
        self.style = _picture(images / "style" / "starry_night.jpg", (80, 64))
        self.large_style = _picture(images / "style" / "starry_night.jpg", (96, 72))
        self.other = _picture(images / "content" / "golden_gate.jpg", (80, 64))

    @cached_property
    def keras_sgd(self) -> list[float]:
        return reference.keras_sgd(self.weights, self.content, self.style, 60)

    @cached_property
    def keras_lbfgs(self) -> list[list[float]]:
        return reference.keras_lbfgs(self.weights, self.content, self.style, 3)

    @cached_property
    def pytorch_tutorial(self) -> list[float]:
        weights = reference.fed_pixels_of_one(self.weights)
        return reference.pytorch_tutorial(weights, self.content, self.style, 3)

    @cached_property
    def tensorflow_adam(self) -> list[float]:
        return reference.tensorflow_adam(self.weights, self.content, self.large_style, 6)

    def transfer(self, preset: str, **options: Any) -> list[dict[str, float]]:
        """The rows of losses.csv."""
        torchvision = preset == "pytorch-tutorial"
        weights = reference.fed_pixels_of_one(self.weights) if torchvision else self.weights
        layers = reference.OF_TUTORIAL if torchvision else reference.THREE_BLOCKS
        result = cnnkit.run(
            "style-transfer",
            self.content,
            preset=preset,
            model=vgg19_blocks(weights, "torch" if torchvision else "caffe"),
            style_layers=",".join(layers.style),
            content_layers=layers.content,
            size="height:64",
            **{"style": [self.style], **options},
        )
        rows = csv.DictReader(io.StringIO(result.files["losses.csv"].decode()))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]

    def losses(self, preset: str) -> list[float]:
        """The weighted parts for the picture `other`, as the reference has them."""
        row = self.transfer(
            preset,
            style=[self.large_style],
            style_scale=1.125,
            start_picture=self.other,
            iterations=1,
        )[0]
        layers = reference.THREE_BLOCKS
        names = [f"style {layer}" for layer in layers.style] + [f"content {layers.content}", "variation"]
        return [row[f"{name} weighted"] for name in names if f"{name} weighted" in row]


def _picture(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB").resize(size, Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def case(data: Path) -> Case:
    return Case(data)


# The restatements are the programs


def test_keras_sgd_is_the_published_program(case: Case) -> None:
    losses = case.keras_sgd
    assert losses[:20] == pytest.approx(KERAS_SGD, rel=1e-4)
    assert losses[59] == pytest.approx(KERAS_SGD_60, rel=1e-3)


def test_keras_lbfgs_is_the_published_program(case: Case) -> None:
    calls = case.keras_lbfgs
    assert calls[0] == pytest.approx(KERAS_LBFGS, rel=1e-3)
    assert [min(call) for call in calls] == pytest.approx(KERAS_LBFGS_CALLS, rel=1e-2)


def test_pytorch_tutorial_is_the_published_program(case: Case) -> None:
    losses = case.pytorch_tutorial
    assert losses[:20] == pytest.approx(PYTORCH_TUTORIAL, rel=1e-3)
    assert losses[59] == pytest.approx(PYTORCH_TUTORIAL_60, rel=1e-2)


def test_tensorflow_tutorial_is_the_published_program(case: Case) -> None:
    losses = case.tensorflow_adam
    assert losses == pytest.approx(TENSORFLOW_ADAM, rel=1e-3)


def test_losses_of_a_picture_are_the_published_programs(case: Case) -> None:
    pictures = case.weights, case.content, case.large_style, case.other
    assert reference.gatys_losses(*pictures) == pytest.approx(GATYS, rel=1e-5)
    assert reference.jcjohnson_losses(*pictures)[:4] == pytest.approx(JCJOHNSON, rel=1e-5)
    parts = reference.jcjohnson_losses(*pictures, white=255)[:4]
    assert [*parts, reference.pt_variation(case.other)] == pytest.approx(NEURAL_STYLE_PT, rel=1e-5)
    tensorflow = reference.tensorflow_loss(*pictures[:3])(reference.unit_nhwc(case.other))
    assert [float(part) for part in tensorflow] == pytest.approx(TENSORFLOW, rel=1e-5)


# The presets are the restatements


def test_gatys_code_has_the_programs_losses(case: Case) -> None:
    expected = reference.gatys_losses(case.weights, case.content, case.large_style, case.other)
    assert case.losses("gatys-code") == pytest.approx(expected, rel=1e-4)


def test_jcjohnson_has_the_programs_losses(case: Case) -> None:
    expected = reference.jcjohnson_losses(case.weights, case.content, case.large_style, case.other)
    assert case.losses("jcjohnson") == pytest.approx(expected, rel=1e-4)


def test_neural_style_pt_has_the_programs_losses(case: Case) -> None:
    assert case.losses("neural-style-pt") == pytest.approx(NEURAL_STYLE_PT, rel=1e-4)


def test_tensorflow_tutorial_has_the_programs_losses(case: Case) -> None:
    parts = reference.tensorflow_loss(case.weights, case.content, case.large_style)
    expected = [float(part) for part in parts(reference.unit_nhwc(case.other))]
    assert case.losses("tensorflow-tutorial") == pytest.approx(expected, rel=1e-4)


def test_keras_sgd_goes_the_programs_way(case: Case) -> None:
    losses = [row["total"] for row in case.transfer("keras-sgd", iterations=60)]
    assert losses[:20] == pytest.approx(case.keras_sgd[:20], rel=1e-3)
    assert losses == pytest.approx(case.keras_sgd, rel=0.05)


def test_tensorflow_tutorial_goes_the_programs_way(case: Case) -> None:
    rows = case.transfer("tensorflow-tutorial", style=[case.large_style], style_scale=1.125, iterations=6)
    assert [row["total"] for row in rows] == pytest.approx(case.tensorflow_adam, rel=1e-3)


def test_keras_lbfgs_goes_the_programs_way(case: Case) -> None:
    """The program evaluates where each call starts, cnnkit knows it from the call before."""
    calls = case.keras_lbfgs
    evaluated = calls[0] + [loss for call in calls[1:] for loss in call[1:]]
    found = _by_number(case.transfer("keras-lbfgs", iterations=60))
    assert max(found) == len(evaluated)
    assert {number: loss for number, loss in found.items() if number <= 20} == pytest.approx(
        {number: evaluated[number - 1] for number in found if number <= 20}, rel=1e-3
    )
    assert found == pytest.approx({number: evaluated[number - 1] for number in found}, rel=0.05)


def test_pytorch_tutorial_goes_the_programs_way(case: Case) -> None:
    expected = dict(enumerate(case.pytorch_tutorial, 1))
    found = _by_number(case.transfer("pytorch-tutorial", iterations=60))
    assert found.keys() == expected.keys()
    first = range(1, 21)
    assert [found[number] for number in first] == pytest.approx([expected[n] for n in first], rel=1e-3)
    assert found == pytest.approx(expected, rel=0.05)


def _by_number(rows: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """The total by the number of the evaluation, where an iteration ended."""
    return {int(row["iteration"]): row["total"] for row in rows}
