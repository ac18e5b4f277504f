"""Class activation mapping: exact sums, heads in every spelling, and heads that are refused."""

from typing import Any

import numpy as np
import pytest
from explained import classifier, photograph

import cnnkit
from cnnkit import Settings
from cnnkit.plugins.cam import cnnkit_operations
from cnnkit.testing import check_operation


def run(picture: Any, model: cnnkit.Model, **options: Any) -> cnnkit.Result:
    return cnnkit.run("cam", picture, model=model, **options)


HEADS = ["gemm", "gemm-transposed", "matmul", "conv", "none", "reduce-mean", "average-pool"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_spelling_of_the_head(head: Any, layout: Any) -> None:
    pixels, model = photograph(12, 10), classifier(head, layout)
    result = run(pixels, model, target="all")
    plain = classifier()
    tensor = plain.preprocessing.apply(cnnkit.Image.load(pixels)).tensor
    features = cnnkit.Session(plain).run(tensor, ["second_relu"])["second_relu"][0]
    (dense,) = [w for node in plain.graph.skeleton.graph.node if node.op_type == "Gemm"
                if (w := plain.graph.constant(node.input[1])) is not None]  # fmt: skip
    expected = np.einsum("kc,khw->chw", dense, features)
    if head == "none":  # the channel of each class has its bias in it
        expected += plain.graph.constant(next(n.input[2] for n in plain.graph.skeleton.graph.node
                                              if n.op_type == "Gemm"))[:, None, None]  # fmt: skip
    np.testing.assert_allclose(result.arrays["map"], expected[result.arrays["classes"]], rtol=1e-4, atol=1e-5)
    for target in result.data["targets"]:
        assert target["mean"] + target["bias"] == pytest.approx(target["score"], abs=1e-5)
        assert (target["bias"] == 0) == (head == "none")
    (layer,) = result.data["layers"]
    assert "averaged over its plane, 12x10" in layer["reason"]
    assert ("each class has its channel" in layer["reason"]) == (head == "none")


@pytest.mark.parametrize("head", ["two-layers", "max-pool"])
def test_other_heads_are_referred_to_grad_cam(head: Any) -> None:
    found = {"two-layers": "Relu 'hidden_relu'", "max-pool": "GlobalMaxPool"}[head]
    with pytest.raises(cnnkit.ModelError, match=rf"{found}.*cnnkit run grad-cam"):
        run(photograph(12, 10), classifier(head))


def test_a_vgg_is_referred_to_grad_cam() -> None:
    b = cnnkit.Builder("small vgg")
    x = b.op.Flatten(b.op.Relu(b.op.Conv(b.input("x", ["N", 3, 4, 4]), np.ones((2, 3, 1, 1), np.float32))))
    x = b.op.Relu(b.op.Gemm(x, np.ones((32, 8), np.float32)))
    b.output(b.op.Softmax(b.op.Gemm(x, np.ones((8, 3), np.float32))), ["N", 3])
    model = cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("tf"), name="small vgg")
    with pytest.raises(cnnkit.ModelError, match=r"'small vgg' has Relu .*cnnkit run grad-cam"):
        run(photograph(4, 4), model)


def test_the_heat_map_is_the_map_enlarged() -> None:
    model, pixels = cnnkit.Model.load(cnnkit.Host().locate("default")), photograph(90, 70)
    found, positive = (
        run(pixels, model, sign=sign, target="top:2").arrays for sign in ("signed", "positive")
    )
    for name in (0, 1):
        expected = cnnkit.resize_map(found["map"][name], 128, 128)
        np.testing.assert_allclose(found["heatmap"][name], expected, rtol=1e-6)
        expected = cnnkit.resize_map(np.maximum(found["map"][name], 0), 128, 128)
        np.testing.assert_allclose(positive["heatmap"][name], expected, rtol=1e-6)


@pytest.mark.parametrize("settings", [Settings(batch=1), Settings(batch=3)])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_batches_leave_no_trace(batch: Any, settings: Settings) -> None:
    pixels = photograph(12, 10)
    expected = run(pixels, classifier(), target="all").arrays
    found = run(pixels, classifier(batch=batch), target="all", settings=settings).arrays
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_mirrored_picture_has_the_mirrored_map() -> None:
    model, pixels = classifier(symmetric=True), photograph(12, 10)
    found, mirrored = (run(p, model, target="all").arrays["map"] for p in (pixels, pixels[:, ::-1].copy()))
    np.testing.assert_allclose(mirrored[..., ::-1], found, rtol=1e-4, atol=1e-5)


def test_what_it_owes_its_users() -> None:
    (operation,) = cnnkit_operations()
    check_operation(operation)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_pictures_of_one_pixel_across(size: tuple[int, int]) -> None:
    assert run(photograph(*size), classifier(), plain=True).picture.size == size


def test_the_check_says_that_it_adds_up() -> None:
    result = run(photograph(12, 10), classifier(), check=True)
    completeness = result.data["check"]["completeness"]
    assert completeness["holds"] and abs(completeness["delta"]) < 1e-5
    assert result.data["check"]["class"]["passes"]  # the rows of a random dense layer have little in common
    assert "check: completeness holds" in result.text and result.text.count("check:") == 3
