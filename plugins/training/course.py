"""The course of a training: epoch after epoch, until it ends or gets no better."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Dataset, Model, ModelError, mixed
from cnnkit.plugins.training.learner import Learner

Array = NDArray[np.float32]
State = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """How a learner is taught.

    `rate(step)` is the learning rate at a step. `smoothing` spreads that share of each target over all
    classes (Szegedy et al. 2016), `weights` (classes,) multiply them, and `mixup` is the alpha of mixed
    pictures, 0 for none. `patience` epochs without a lower validation loss end it, 0 never. `slot` is what is
    validated and kept in place of the weights themselves, "average" of an averaging optimizer.
    """

    epochs: int
    batch: int
    rate: Callable[[int], float]
    seed: int = 0
    smoothing: float = 0.0
    weights: NDArray[np.float32] | None = None
    mixup: float = 0.0
    patience: int = 0
    slot: str = ""


class Row(NamedTuple):
    """An epoch. Loss and accuracy are means over its pictures as they were met, before each update."""

    epoch: int
    phase: str
    rate: float
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    pictures_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """By name; None where there is no number."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in self._asdict().items()
        }


@dataclass
class _Sums:
    """Of the pictures of the present epoch so far."""

    loss: float = 0.0
    right: int = 0
    seen: int = 0
    seconds: float = 0.0


class Course:
    """Teaches a learner the pictures of `train`, and notes after each epoch how it does on `validation`.

    It is decided by the plan's seed, the epoch and the step alone, so a course that is taken up again ends
    where the unbroken one ends, bit for bit.
    """

    def __init__(self, phase: str, learner: Learner, plan: Plan, train: Dataset, validation: Dataset) -> None:
        self.rows: list[Row] = []
        self.best: dict[str, NDArray[Any]] = {}
        self.best_row: Row | None = None
        self._phase, self._learner, self._plan = phase, learner, plan
        self._train, self._validation = train, validation
        self._epoch = self._step = 0
        self._sums = _Sums()

    @property
    def _shown(self) -> list[str]:
        """What of the session's state is in the network that comes of it."""
        session, slot = self._learner.session, self._plan.slot
        weights = {tensor.name for tensor in session.model.graph.skeleton.graph.initializer}
        return [name for name in session.state if name in weights or (slot and name.endswith(f"/{slot}"))]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._train) / self._plan.batch)

    @property
    def ended(self) -> str:
        """Why it is over; empty while it is not."""
        patience = self._plan.patience
        if self.best_row and patience and len(self.rows) - self.best_row.epoch >= patience:
            return f"no lower validation loss in {patience} epochs"
        return "all epochs done" if self._epoch >= self._plan.epochs else ""

    def steps(self) -> Iterator[int]:
        """Each step, counted over all epochs, from where it is to the end; between two it can be kept.

        Raises ModelError when the loss is no longer a number.
        """
        while not self.ended:
            yield from self._one_epoch()

    def model(self, best: bool) -> Model:
        """The network at its best epoch, or as it is."""
        if not best or not self.best:
            return self._learner.session.trained(self._plan.slot)
        session = self._learner.session
        now = {name: session.read(name) for name in self.best}
        for name, value in self.best.items():
            session.write(name, value)
        model = session.trained(self._plan.slot)
        for name, value in now.items():
            session.write(name, value)
        return model

    def state(self) -> State:
        """Everything that decides how it goes on, for `take_up`."""
        session, sums = self._learner.session, self._sums
        told = {
            "rows": self.rows,
            "best": self.best_row,
            "place": [self._epoch, self._step],
            "sums": [sums.loss, sums.right, sums.seen, sums.seconds],
            "random": session.random.bit_generator.state,
        }
        state: State = {f"session/{name}": session.read(name) for name in session.state}
        state |= {f"best/{name}": value for name, value in self.best.items()}
        return state | {"course": np.array(json.dumps(told))}

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state of the same course."""
        session, told = self._learner.session, json.loads(str(state["course"]))
        for name in session.state:
            session.write(name, state[f"session/{name}"])
        session.random.bit_generator.state = told["random"]
        self.best = {n.removeprefix("best/"): v for n, v in state.items() if n.startswith("best/")}
        self.rows = [Row(*row) for row in told["rows"]]
        self.best_row = Row(*told["best"]) if told["best"] else None
        self._epoch, self._step = told["place"]
        self._sums = _Sums(*told["sums"])

    def _one_epoch(self) -> Iterator[int]:
        plan, epoch = self._plan, self._epoch
        order = np.random.default_rng((plan.seed, epoch)).permutation(len(self._train))
        batches = [order[start : start + plan.batch] for start in range(0, len(order), plan.batch)]
        begun = time.monotonic() - self._sums.seconds
        for inputs in self._learner.inputs(batches[self._step :], epoch):
            self._update(batches[self._step], inputs)
            self._step += 1
            self._sums.seconds = time.monotonic() - begun
            if self._step < len(batches):
                yield epoch * len(batches) + self._step
        self._end_epoch()
        yield self._epoch * len(batches)

    def _update(self, batch: NDArray[np.int64], inputs: Array) -> None:
        plan, step = self._plan, self._epoch * self.steps_per_epoch + self._step
        labels = self._train.labels[batch]
        target = self._targets(labels)
        if plan.mixup:
            random = np.random.default_rng((plan.seed, self._epoch, self._step, 1))
            inputs, target = mixed(inputs, target, plan.mixup, random)
        if plan.weights is not None:
            target = target * plan.weights
        loss, logits = self._learner.step(inputs, target, plan.rate(step))
        if not math.isfinite(loss):
            raise ModelError(
                f"in epoch {self._epoch + 1} the loss became {loss}: take a lower --rate than "
                f"{plan.rate(step):.3g}."
            )
        self._sums.loss += loss * len(batch)
        self._sums.right += int((logits.argmax(1) == labels).sum())
        self._sums.seen += len(batch)

    def _targets(self, labels: NDArray[np.int64]) -> Array:
        """Probabilities (N, classes)."""
        classes, smoothing = len(self._train.classes), self._plan.smoothing
        targets = np.full((len(labels), classes), smoothing / classes, np.float32)
        targets[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
        return targets

    def _end_epoch(self) -> None:
        plan, sums = self._plan, self._sums
        loss, accuracy = cross_entropy_of(self._learner.validate(plan.slot), self._validation.labels)
        row = Row(
            self._epoch + 1,
            self._phase,
            plan.rate(self._epoch * self.steps_per_epoch + self._step - 1),
            sums.loss / sums.seen,
            sums.right / sums.seen,
            loss,
            accuracy,
            sums.seen / max(sums.seconds, 1e-9),
            sums.seconds,
        )
        self.rows.append(row)
        if self.best_row is None or loss < self.best_row.validation_loss or not len(self._validation):
            self.best = {name: self._learner.session.read(name) for name in self._shown}
            self.best_row = row
        self._epoch, self._step, self._sums = self._epoch + 1, 0, _Sums()


def cross_entropy_of(logits: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """The mean cross-entropy and the accuracy of logits (N, classes); NaN for no pictures."""
    if not len(labels):
        return math.nan, math.nan
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    right = logits.argmax(1) == labels
    return float(-logs[np.arange(len(labels)), labels].mean()), float(right.mean())
