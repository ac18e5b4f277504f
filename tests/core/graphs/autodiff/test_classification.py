"""Rules of softmax and of the losses that end in it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rulecheck import Write, assert_as_torch, assert_slopes, run_gradients

from cnnkit.graphs.autodiff.check import slopes
from cnnkit.graphs.builder import Builder, Operators
from cnnkit.graphs.tensors import Tensor

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(1, 2**31)
opsets = st.sampled_from([18, 21, 22, 23, 26])


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def single(*shape: int, seed: int = 0) -> np.ndarray:
    return random(*shape, seed=seed).astype(np.float32)


@quick
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from(["Softmax", "LogSoftmax"]),
    st.data(),
    st.booleans(),
    opsets,
)
def test_softmax(shape: list[int], operator: str, data: st.DataObject, batch: bool, opset: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    assert_slopes(
        lambda op, x: getattr(op, operator)(x, axis=axis), random(*shape) * 3, batch=batch, opset=opset
    )


def test_softmax_by_hand() -> None:
    x, seed = np.log(np.array([[1, 2, 5]], np.float32)), np.array([[8, 0, 0]], np.float32)
    _, (dx,) = run_gradients(lambda op, x: op.Softmax(x), x, seed=seed)
    np.testing.assert_allclose(dx, [[7 / 8, -2 / 8, -5 / 8]], rtol=1e-5)
    _, (dx,) = run_gradients(lambda op, x: op.LogSoftmax(x), x, seed=seed)
    np.testing.assert_allclose(dx, [[7, -2, -5]], rtol=1e-5)


LOSSES = ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]


def loss(operator: str, target: np.ndarray, weight: np.ndarray | None = None, **attributes: Any) -> Write:
    def write(op: Operators, x: Tensor) -> Tensor:
        weights = None if weight is None else weight.astype(x.dtype)
        result: Tensor = getattr(op, operator)(x, target, weights, **attributes)
        return result

    return write


@pytest.mark.parametrize("operator", LOSSES)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([None, 0, -100, 255]),
    st.booleans(),
    st.sampled_from([np.int32, np.int64]),
    opsets,
    seeds,
)
def test_losses(
    operator: str,
    sizes: list[int],
    reduction: str,
    ignored: int | None,
    weighted: bool,
    kind: type,
    opset: int,
    seed: int,
) -> None:
    numbers = np.random.default_rng(seed)
    target = numbers.integers(0, 4, (3, *sizes)).astype(kind)
    target[0] = 1  # one that counts
    attributes = {} if ignored is None else {"ignore_index": ignored}
    if ignored is not None:
        target[2] = ignored
    weight = numbers.uniform(0.5, 2, 4) if weighted else None
    write = loss(operator, target, weight, reduction=reduction, **attributes)
    assert_slopes(write, random(3, 4, *sizes, seed=seed), opset=opset)


def test_cross_entropy_by_hand() -> None:
    """Softmax minus one at the target, over what counts."""
    x = np.log(np.array([[1, 2, 5], [4, 2, 2], [1, 1, 2]], np.float32))
    write = loss("SoftmaxCrossEntropyLoss", np.array([2, 0, -7]), ignore_index=-7)
    _, (dx,) = run_gradients(write, x, seed=np.array(16, np.float32))
    np.testing.assert_allclose(dx, [[1, 2, -3], [-4, 2, 2], [0, 0, 0]], rtol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_likelihoods_that_a_cross_entropy_puts_out(both: bool) -> None:
    def write(op: Operators, x: Tensor) -> Tensor:
        value, log = op.SoftmaxCrossEntropyLoss(x, np.array([2, 0]), output=["loss", "log"])
        return op.Add(log, value) if both else log  # type: ignore[no-any-return]

    assert_slopes(write, random(2, 3))


def test_a_loss_of_an_open_batch() -> None:
    builder = Builder()
    x = builder.input("x", ["batch", 3], np.float64)
    target = builder.input("target", ["batch"], np.int64)
    feeds = {"x": random(4, 3), "target": np.array([0, 2, 1, 1])}
    value = builder.op.SoftmaxCrossEntropyLoss(x, target)
    assert all(slope.good for slope in slopes(builder, value, feeds, ["x"]))


@pytest.mark.oracle
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_over_classes_as_torch(reduction: str, weighted: bool) -> None:
    import torch

    x, weight = single(4, 5, 3, 2) * 5, np.abs(single(5, seed=1)) if weighted else None
    target = np.random.default_rng(0).integers(0, 5, (4, 3, 2))
    target[1] = -100
    given = {"weight": None if weight is None else torch.tensor(weight), "reduction": reduction}
    functions = torch.nn.functional.nll_loss, torch.nn.functional.cross_entropy
    for operator, function in zip(LOSSES, functions, strict=True):
        assert_as_torch(
            loss(operator, target, weight, ignore_index=-100, reduction=reduction),
            lambda x, function=function: function(x, torch.tensor(target), **given),
            x,
        )
    assert_as_torch(lambda op, x: op.Softmax(x, axis=1), lambda x: x.softmax(1), x)
    assert_as_torch(lambda op, x: op.LogSoftmax(x, axis=1), lambda x: x.log_softmax(1), x)
