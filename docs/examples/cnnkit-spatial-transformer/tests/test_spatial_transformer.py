import numpy as np
import pytest
from cnnkit_spatial_transformer import affine_grid, grid_sample

import cnnkit
from cnnkit.testing import check_gradient_rule, check_package

random = np.random.default_rng(0)

# onnx's own reference computes these two in float32, which is too coarse to be differenced.


def affine_places(theta, size, align_corners=0):
    """theta times (x, y, 1)."""
    spans = [1 if align_corners else 1 - 1 / side for side in size[2:]]
    y, x = np.meshgrid(
        *(np.linspace(-s, s, side) for s, side in zip(spans, size[2:], strict=True)), indexing="ij"
    )
    return np.einsum("npk,ijk->nijp", theta, np.stack([x, y, np.ones_like(x)], axis=2))


def sampled(x, grid, mode="linear", align_corners=0):
    """The sum of all pixels, each with max(0, 1 - distance) along both axes."""

    def shares(along, side):
        place = ((along + 1) * (side - 1) if align_corners else (along + 1) * side - 1) / 2
        return np.maximum(0, 1 - np.abs(place[..., None] - np.arange(side)))

    rows, columns = shares(grid[..., 1], x.shape[2]), shares(grid[..., 0], x.shape[3])
    return np.einsum("nijr,nijs,ncrs->ncij", rows, columns, x)


def test_package():
    check_package("cnnkit-spatial-transformer")


@pytest.mark.parametrize("align_corners", [0, 1])
def test_affine_grid(align_corners):
    theta, size = random.normal(size=(2, 2, 3)), np.array([2, 3, 4, 5])
    check_gradient_rule(
        "AffineGrid", affine_grid, theta, size, opset=20, computes=affine_places, align_corners=align_corners
    )


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("mode, opset", [("bilinear", 16), ("linear", 20)])
def test_grid_sample(align_corners, mode, opset):
    x, grid = random.normal(size=(2, 3, 4, 5)), random.uniform(-1.4, 1.4, size=(2, 6, 7, 2))
    attributes = {"mode": mode, "align_corners": align_corners}
    check_gradient_rule("GridSample", grid_sample, x, grid, opset=opset, computes=sampled, **attributes)


@pytest.mark.parametrize("attributes", [{"mode": "cubic"}, {"padding_mode": "border"}])
def test_what_there_is_no_rule_for_is_said(attributes):
    x, grid = np.ones((1, 1, 2, 2)), np.zeros((1, 1, 1, 2))
    with pytest.raises(cnnkit.ModelError, match=r"the gradient of GridSample .* only"):
        check_gradient_rule("GridSample", grid_sample, x, grid, opset=20, **attributes)


def test_a_network_learns_where_to_look():
    """In ONNX Runtime: a picture is moved by an unknown map, which gradient descent finds again."""
    builder = cnnkit.Builder("mover", opset=20)
    x = builder.input("input", [1, 3, 24, 24])
    theta = builder.constant(np.eye(2, 3, dtype=np.float32)[None], "theta")
    grid = builder.op.AffineGrid(theta, np.array([1, 3, 24, 24]))
    builder.output(builder.op.GridSample(x, grid, name="moved"), [1, 3, 24, 24])
    model = cnnkit.Model.of(
        builder.model(), preprocessing=cnnkit.Preprocessing.preset("raw", height=24, width=24)
    )

    down, across = np.mgrid[-1:1:24j, -1:1:24j]
    picture, wanted = (
        np.exp(-6 * ((down - y) ** 2 + (across - x) ** 2)).astype(np.float32)[None, None].repeat(3, axis=1)
        for y, x in ((0.0, 0.0), (0.25, -0.5))
    )

    def loss(builder, tap):
        target = builder.input("wanted", wanted.shape)
        return {"difference": cnnkit.losses.mean_squared_error(builder.op, tap("moved"), target)}

    session = cnnkit.TrainingSession(
        model, loss, ["theta"], cnnkit.Adam(0.02), rules=cnnkit.Host().gradient_rules()
    )
    steps = [session.step({"input": picture, "wanted": wanted})["difference"] for _ in range(150)]
    assert steps[-1] < 1e-3 * steps[0]
