"""The course: gradient descent by hand, resumed at every step, stopped when it gets no better."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import small_network

from cnnkit import SGD, Adam, Averaged, Dataset, Model, ModelError, TrainingSession
from cnnkit.plugins.training.course import Course, Plan, cross_entropy_of
from cnnkit.plugins.training.learner import Classification
from cnnkit.plugins.training.surgery import BIAS, KERNEL, with_head

Array = NDArray[np.float32]
COUNT, CHANNELS = 10, 8
FEATURES = np.random.default_rng(0).standard_normal((COUNT, CHANNELS)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


def dataset(labels: NDArray[np.int64] = LABELS) -> Dataset:
    return Dataset(Path(), ("a", "b", "c"), tuple(f"{k}.png" for k in range(len(labels))), labels)


class OnFeatures:
    """A head that learns from given features; validated with the same."""

    def __init__(self, optimizer: Any, model: Model | None = None) -> None:
        model = model or with_head(small_network(), ["a", "b", "c"], np.random.default_rng(1))
        self.session = TrainingSession(
            model, Classification(CHANNELS), [KERNEL, BIAS], optimizer, size=(8, 8)
        )

    def inputs(self, indices: Iterable[Any], epoch: int) -> Iterator[Array]:
        return (FEATURES[batch] for batch in indices)

    def step(self, inputs: Array, target: Array, rate: float) -> tuple[float, Array]:
        logits = inputs @ self.session.read(KERNEL) + self.session.read(BIAS)
        loss = self.session.step({"fed": inputs, "target": target, "learning_rate": rate})["total"]
        return loss, logits

    def validate(self, slot: str) -> Array:
        names = [f"{name}/{slot}" if slot else name for name in (KERNEL, BIAS)]
        kernel, bias = (self.session.read(name) for name in names)
        return np.asarray(FEATURES @ kernel + bias)


def course(optimizer: Any = None, **plan: Any) -> tuple[Course, OnFeatures]:
    learner = OnFeatures(optimizer or Adam())
    made = Plan(**{"epochs": 3, "batch": 4, "rate": lambda step: 0.1 / (1 + step), **plan})
    return Course("frozen", learner, made, dataset(), dataset()), learner


def test_gradient_descent_by_hand() -> None:
    """Softmax regression in float64: the same losses, weights and accuracies."""
    run, learner = course(
        SGD(), epochs=4, rate=lambda step: 0.5, smoothing=0.1, weights=np.array([1, 2, 3], np.float32)
    )
    kernel, bias = (learner.session.read(name).astype(np.float64) for name in (KERNEL, BIAS))
    list(run.steps())
    for epoch, row in enumerate(run.rows):
        order = np.random.default_rng((0, epoch)).permutation(COUNT)
        losses, right = 0.0, 0
        for start in range(0, COUNT, 4):
            batch = order[start : start + 4]
            x, labels = FEATURES[batch].astype(np.float64), LABELS[batch]
            target = (np.eye(3)[labels] * 0.9 + 0.1 / 3) * [1, 2, 3]
            logits = x @ kernel + bias
            logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            losses -= (target * logs).sum()
            right += (logits.argmax(1) == labels).sum()
            slope = (np.exp(logs) * target.sum(1, keepdims=True) - target) / len(batch)
            kernel -= 0.5 * x.T @ slope
            bias -= 0.5 * slope.sum(0)
        assert row.loss == pytest.approx(losses / COUNT, rel=1e-4)
        assert row.accuracy == right / COUNT
        loss, accuracy = cross_entropy_of((FEATURES @ kernel + bias).astype(np.float32), LABELS)
        assert (row.validation_loss, row.validation_accuracy) == pytest.approx((loss, accuracy), rel=1e-4)
    np.testing.assert_allclose(learner.session.read(KERNEL), kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", range(9))
def test_resumed_at_any_step_it_ends_where_it_would_have(stop: int) -> None:
    settings: dict[str, Any] = {
        "optimizer": Averaged(Adam(), 0.9),
        "slot": "average",
        "mixup": 0.3,
        "seed": 5,
    }
    whole, learner = course(**settings)
    list(whole.steps())
    first, _ = course(**settings)
    steps = first.steps()
    for _ in range(stop):
        next(steps)
    state = first.state()
    steps.close()
    second, other = course(**settings)
    second.take_up(state)
    assert len(list(second.steps())) == 9 - stop
    for name in learner.session.state:
        assert (learner.session.read(name) == other.session.read(name)).all()
    timeless = [
        [row._replace(pictures_per_second=0, seconds=0) for row in run.rows] for run in (whole, second)
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 3
    assert second.best.keys() == whole.best.keys()
    assert all((second.best[name] == whole.best[name]).all() for name in whole.best)


def test_it_stops_when_it_gets_no_better() -> None:
    """With steps that are far too long the first epoch is soon the best; that network is kept."""
    run, learner = course(SGD(), epochs=100, patience=2, rate=lambda step: 0.05 if step < 3 else 500.0)
    list(run.steps())
    assert run.best_row and run.ended == "no lower validation loss in 2 epochs"
    assert len(run.rows) == run.best_row.epoch + 2 < 100
    best, last = run.model(best=True), run.model(best=False)
    kernel = best.graph.constant(KERNEL)
    assert (kernel == run.best[KERNEL]).all()
    assert (last.graph.constant(KERNEL) == learner.session.read(KERNEL)).all()
    assert (kernel != last.graph.constant(KERNEL)).any()


def test_a_loss_that_is_no_number() -> None:
    run, _ = course(SGD(), rate=lambda step: 1e38)
    with pytest.raises(ModelError, match=r"in epoch 1 the loss became nan|inf: take a lower --rate"):
        list(run.steps())


def test_nothing_to_validate_with() -> None:
    run, learner = course()
    run._validation = dataset(LABELS[:0])
    learner.validate = lambda slot: np.zeros((0, 3), np.float32)  # type: ignore[method-assign]
    list(run.steps())
    assert np.isnan(run.rows[-1].validation_loss) and run.best_row == run.rows[-1]
    again, _ = course(patience=2)
    again.take_up(run.state())
    assert again.ended == "all epochs done"
