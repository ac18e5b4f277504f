"""The default network: its builder, and the file that is shipped."""

from pathlib import Path

import numpy as np
import pytest

import cnnkit
from cnnkit import Model, Preprocessing, Session, measure
from cnnkit.models import default, small_vgg

WIDTHS = (4, 5, 6, 7, 8)
LABELS = ["cat", "dog", "crab"]


def random_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights, channels = {}, 3
    for block, width in enumerate(WIDTHS, 1):
        for layer in (f"block{block}_conv1", f"block{block}_conv2"):
            weights[f"{layer}.kernel"] = random.standard_normal((width, channels, 3, 3)).astype(np.float32)
            weights[f"{layer}.bias"] = random.standard_normal(width).astype(np.float32)
            channels = width
    weights["predictions.kernel"] = random.standard_normal((channels, 3)).astype(np.float32) / 1000
    weights["predictions.bias"] = random.standard_normal(3).astype(np.float32)
    return weights


def test_the_layers_and_their_shapes() -> None:
    model = small_vgg.small_vgg(random_weights(), LABELS)
    shapes = {row.layer.name: row.shape for row in measure(model.graph, 128, 96).rows}
    assert shapes["block1_conv1/conv"] == shapes["block1_conv1"] == (1, 4, 128, 96)
    assert shapes["block2_conv1"] == (1, 5, 64, 48)
    assert shapes["block5_conv2"] == (1, 8, 8, 6)
    assert shapes["global_average_pooling"] == (1, 8, 1, 1)
    assert shapes["predictions"] == shapes["probabilities"] == (1, 3)
    assert "block5_pool" not in shapes
    assert (model.logits.tensor, model.probabilities.tensor) == ("predictions", "probabilities")
    assert model.preprocessing == Preprocessing.preset("tf", height=128, width=128)


@pytest.mark.oracle
def test_it_computes_what_torch_computes() -> None:
    torch = pytest.importorskip("torch")
    weights = random_weights()
    x = np.random.default_rng(1).standard_normal((2, 3, 48, 64)).astype(np.float32)
    features = torch.from_numpy(x)
    for block in range(1, 6):
        if block > 1:
            features = torch.nn.functional.max_pool2d(features, 2)
        for layer in (f"block{block}_conv1", f"block{block}_conv2"):
            kernel, bias = (torch.from_numpy(weights[f"{layer}.{part}"]) for part in ("kernel", "bias"))
            features = torch.nn.functional.conv2d(features, kernel, bias, padding=1).relu()
    scores = features.mean((2, 3)).numpy() @ weights["predictions.kernel"] + weights["predictions.bias"]
    outputs = Session(small_vgg.small_vgg(weights, LABELS), "cpu").run(x, ["block5_conv2", "predictions"])
    np.testing.assert_allclose(outputs["block5_conv2"], features.numpy(), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(outputs["predictions"], scores, rtol=1e-4, atol=1e-3)


def test_weights_become_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", labels=np.array(LABELS), **random_weights())
    small_vgg.main(str(tmp_path / "weights.npz"), str(tmp_path / "small.onnx"))
    model = Model.load(tmp_path / "small.onnx")
    assert (model.labels, model.assumptions) == (tuple(LABELS), ())
    assert "CC BY 4.0" in model.licence


def test_the_file_that_is_shipped() -> None:
    (network,) = default.cnnkit_models()
    path = network.locate()
    assert path.stat().st_size <= 6_000_000
    model = Model.load(path)
    assert model.name == network.name == "default"
    assert model.classes == len(model.labels) >= 100
    assert [layer.name for layer in model.find("block?_conv?")] == [
        f"block{block}_conv{number}" for block in range(1, 6) for number in (1, 2)
    ]


def test_it_finds_the_face_in_the_portrait() -> None:
    result = cnnkit.run("occlusion", "sample:portrait")
    assert result.data["targets"][0]["label"] == "face"
    heat = result.arrays["heatmap"][0]
    face = np.zeros(heat.shape, bool)
    face[38:81, 45:88] = True  # rows 180 to 380 and columns 180 to 350 of the photograph
    assert heat[face].mean() > 3 * np.maximum(heat[~face], 0).mean()
