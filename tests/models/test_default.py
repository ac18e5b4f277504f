"""The default network: the file that is shipped, and what it can do."""

import numpy as np
import pytest

import cnnkit
from cnnkit import Model, Preprocessing, Session, measure
from cnnkit.models import default
from cnnkit.models.small_vgg import WIDTHS

LAYERS = [f"block{block}_conv{number}" for block in range(1, 6) for number in (1, 2)]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(default.locate())


def test_the_file_that_is_shipped(model: Model) -> None:
    (network,) = default.cnnkit_models()
    assert network.locate().stat().st_size <= 8_000_000
    assert model.name == network.name == "default"
    assert model.assumptions == ()
    assert model.classes == len(model.labels) == len(set(model.labels)) == 110
    assert {"face", "dalmatian", "tench", "golf ball"} < {*model.labels}
    assert not {"faces", "faces easy", "background google"} & {*model.labels}
    assert "CC BY 4.0" in model.licence
    assert model.preprocessing == Preprocessing.preset("tf", height=128, width=128)


def test_the_layers_and_their_shapes(model: Model) -> None:
    measures = measure(model.graph, 128, 128)
    assert measures.macs <= 300_000_000
    shapes = {row.layer.name: row.shape for row in measure(model.graph, 128, 96).rows}
    for position, layer in enumerate(LAYERS):
        block = position // 2
        assert shapes[layer] == (1, WIDTHS[block], 128 >> block, 96 >> block)
        before, after = (model.find([name])[0].tensor for name in (f"{layer}/conv", layer))
        assert before != after
    assert shapes["predictions"] == shapes["probabilities"] == (1, 110)
    assert (model.logits.tensor, model.probabilities.tensor) == ("predictions", "probabilities")
    assert not any(row.layer.operator == "BatchNormalization" for row in measures.rows)


def test_how_it_was_trained_is_in_it(model: Model) -> None:
    """And by cnnkit: its last training, of which the page tells."""
    record = model.training
    assert record["options"]["way"] == "scratch" and record["options"]["split"] == "hash"
    assert record["best"]["validation_accuracy"] > 0.8


@pytest.mark.oracle
def test_it_computes_what_torch_computes(model: Model) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).standard_normal((2, 3, 48, 64)).astype(np.float32)
    features = torch.from_numpy(x)
    for position, layer in enumerate(LAYERS):
        if position and not position % 2:
            features = torch.nn.functional.max_pool2d(features, 2)
        (node,) = (node for node in model.graph.skeleton.graph.node if node.output[0] == f"{layer}/conv")
        kernel, bias = (torch.tensor(model.graph.constant(name)) for name in node.input[1:])
        features = torch.nn.functional.conv2d(features, kernel, bias, padding=1).relu()
    outputs = Session(model, "cpu").run(x, ["block5_conv2"])
    np.testing.assert_allclose(outputs["block5_conv2"], features.numpy(), rtol=1e-4, atol=1e-4)


def test_it_finds_the_face_in_the_portrait() -> None:
    result = cnnkit.run("occlusion", "sample:portrait")
    assert result.data["targets"][0]["label"] == "face"
    heat = result.arrays["heatmap"][0]
    face = np.zeros(heat.shape, bool)
    face[38:81, 45:88] = True  # rows 180 to 380 and columns 180 to 350 of the photograph
    assert heat[face].mean() > 3 * np.maximum(heat[~face], 0).mean()
