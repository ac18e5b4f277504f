"""Occlusion against captum, on MobileNetV2 rebuilt in torch from the nodes of the same file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cnnkit
from cnnkit.host.context import Settings

torch = pytest.importorskip("torch", reason="captum runs on torch")
attr = pytest.importorskip("captum.attr", reason="the oracle is captum")
from onnx_in_torch import OnnxInTorch  # noqa: E402

pytestmark = pytest.mark.oracle


def captums_map(
    model: cnnkit.Model,
    picture: cnnkit.Image,
    patch: tuple[int, int],
    stride: tuple[int, int],
    baseline: float,
    target: int,
    score: str = "logits",
) -> Any:
    """captum's attribution (height, width) of one class on the same input."""
    tensor = model.logits.tensor if score == "logits" else model.probabilities.tensor
    forward = OnnxInTorch(model.graph.proto, tensor)
    with torch.no_grad():
        attribution = attr.Occlusion(forward).attribute(
            torch.from_numpy(model.preprocessing.apply(picture).tensor),
            sliding_window_shapes=(3, *patch),
            strides=(3, *stride),
            baselines=baseline,
            target=target,
            perturbations_per_eval=8,
        )
    assert (attribution == attribution[:, :1]).all()  # the channels of a pixel share the value
    return attribution[0, 0].numpy()


@pytest.mark.parametrize(
    ("photograph", "patch", "stride", "batch", "score", "value", "fit"),
    [
        ("chelsea.png", (32, 32), (32, 32), 1, "logits", "grey", "squash"),
        ("chelsea.png", (64, 48), (40, 48), 3, "logits", "black", "crop"),
        ("coffee.png", (50, 70), (33, 29), 16, "probabilities", "grey", "pad"),
        ("rocket.jpg", (224, 60), (7, 60), None, "logits", "white", "squash"),
    ],
)
def test_mobilenet_v2(
    data: Path,
    photograph: str,
    patch: tuple[int, int],
    stride: tuple[int, int],
    batch: int | None,
    score: str,
    value: str,
    fit: Any,
) -> None:
    model = cnnkit.Model.load(data / "weights" / "mobilenet_v2_1.0_224.onnx", preprocess="tf", fit=fit)
    picture = cnnkit.Image.load(data / "images" / "free" / photograph)
    assert picture.height != picture.width
    result = cnnkit.run(
        "occlusion",
        picture,
        model=model,
        settings=Settings(batch=batch),
        patch=patch,
        stride=stride,
        score=score,
        value=value,
        target="top:2",
    )
    baseline = {"grey": 0.0, "black": -1.0, "white": 1.0}[value]
    for target, heatmap in zip(result.arrays["classes"], result.arrays["heatmap"], strict=True):
        expected = captums_map(model, picture, patch, stride, baseline, int(target), score)
        assert np.abs(heatmap - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_oracle_is_the_same_network(data: Path) -> None:
    path = data / "weights" / "mobilenet_v1_0.25_128.onnx"
    model = cnnkit.Model.load(path, preprocess="tf")
    picture = cnnkit.Image.load(data / "images" / "free" / "chelsea.png")
    tensor = model.preprocessing.apply(picture).tensor
    (ours,) = cnnkit.Session(model).run(tensor).values()
    with torch.no_grad():
        theirs = OnnxInTorch(onnx.load(path))(torch.from_numpy(tensor)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
