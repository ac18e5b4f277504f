"""The network of random filters: its numbers, and that it is there without a file."""

import numpy as np
import pytest

import cnnkit
from cnnkit import Host, ModelError, ModelSpec, Session, UsageError
from cnnkit.host.catalogue import describe, known_networks
from cnnkit.models.random_filters import SIDES, random_filters


def test_a_layer_of_all_sizes_with_its_relus() -> None:
    model = random_filters(maps=2)
    assert [layer.name for layer in model.layers][1:] == [*(f"filters{side}" for side in SIDES), "filters"]
    x = np.random.default_rng(0).normal(0, 50, (1, 3, 12, 10)).astype(np.float32)
    every = Session(model).run(x, ["filters"])["filters"]
    assert every.shape == (1, 2 * len(SIDES), 12, 10)
    for number, side in enumerate(SIDES):
        kernel = model.graph.constant(f"filters{side}.kernel")
        assert kernel is not None and kernel.shape == (2, 3, side, side)
        padded = np.pad(x[0].astype(np.float64), ((0, 0), *2 * [(side // 2, side // 2)]))
        window = padded[:, 4 : 4 + side, 7 : 7 + side]
        expected = np.maximum((kernel * window).sum((1, 2, 3)), 0)
        np.testing.assert_allclose(
            every[0, 2 * number : 2 * number + 2, 4, 7], expected, rtol=1e-4, atol=1e-3
        )


def test_the_filters_are_uniform_as_glorot_has_it() -> None:
    kernel = random_filters().graph.constant("filters55.kernel")
    limit = np.sqrt(6 / (55 * 55 * (3 + 128)))
    assert kernel is not None
    assert np.abs(kernel).max() <= limit < 1.0001 * np.abs(kernel).max()
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert abs(kernel.mean()) < 0.01 * limit


def test_a_seed_is_a_network() -> None:
    first, again, other = (random_filters(f"random:{seed}", maps=1) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    with pytest.raises(UsageError, match=r"say random:SEED, such as random:1, not 'vgg\.npz'"):
        random_filters("vgg.npz")


def test_it_is_there_without_a_file() -> None:
    host = Host()
    model = host.model(ModelSpec("random-filters-32"))
    assert model.origin == "random:0" and model.layers[-1].name == "filters"
    other = host.model(ModelSpec("random-filters-32", weights="random:1"))
    assert other.sha256 != model.sha256
    with pytest.raises(ModelError, match="is made from random:0 and has no file"):
        host.locate("random-filters-32")
    with pytest.raises(UsageError, match="nothing to pull"):
        cnnkit.pull("random-filters", host=host)
    states = {network["name"]: network["state"] for network in known_networks()}
    assert states["random-filters"] == "made" and states["default"] == "packaged"
    assert describe(ModelSpec("random-filters-32"))["path"] is None
