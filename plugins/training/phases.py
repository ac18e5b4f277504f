"""The phases of a way, and what moves the weights in each: optimizer, learning rate, weights of classes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import SGD, Adam, AdamW, Averaged, Dataset, schedules
from cnnkit.plugins.training.options import TrainOptions

EPOCHS = {"frozen": 20, "fine-tuned": 10, "scratch": 30}
RATES = {"frozen": 1e-3, "fine-tuned": 1e-5, "scratch": 1e-3}
"""Of Adam, as Keras' guide to transfer learning has them."""
SGD_FACTOR = 10.0
MOMENTUM = 0.9
DECAY = 0.05
"""Of AdamW."""
FEWEST_STEPS = 4
"""Of a schedule that goes up and down."""


@dataclass(frozen=True)
class Phase:
    """A course of its own: what of the network learns, for how long, and how.

    `first` is the layer from which on it learns: "" for all, None for the head alone.
    """

    name: str
    epochs: int
    rate: float
    first: str | None
    batch_norm: bool = False


def phases(options: TrainOptions, knows: bool) -> list[Phase]:
    """Of a way; `knows` says that the network's own head is for these classes already."""
    way = options.way
    epochs = options.epochs or EPOCHS[way]
    factor = SGD_FACTOR if options.optimizer == "sgd" else 1.0
    rate = options.rate or factor * RATES[way]
    if way == "frozen":
        return [Phase("frozen", epochs, rate, None)]
    if way == "scratch":
        return [Phase("scratch", epochs, rate, "", batch_norm=True)]
    first = options.head_epochs if options.head_epochs is not None else 0 if knows else EPOCHS["frozen"]
    head = [Phase("frozen", first, factor * RATES["frozen"], None)] if first else []
    return [*head, Phase("fine-tuned", epochs, rate, options.from_layer or "")]


@dataclass(frozen=True)
class KernelDecay:
    """An optimizer whose weight decay leaves vectors alone: biases and batch norms do not overfit."""

    optimizer: Any

    @property
    def settings(self) -> Any:
        return self.optimizer.settings

    def slots(self, parameter: Any) -> Any:
        return self.optimizer.slots(parameter)

    def update(self, op: Any, parameter: Any, *others: Any) -> Any:
        kind = self.optimizer if parameter.rank > 1 else replace(self.optimizer, weight_decay=0.0)
        return kind.update(op, parameter, *others)


def optimizer(options: TrainOptions, phase: Phase) -> Any:
    name = options.optimizer or ("adamw" if phase.name == "scratch" else "adam")
    decay = options.weight_decay
    if decay is None:
        decay = DECAY if name == "adamw" else 0.0
    made: Any = {
        "adam": Adam(epsilon=1e-7, epsilon_as="keras", weight_decay=decay),
        "adamw": AdamW(weight_decay=decay),
        "sgd": SGD(momentum=MOMENTUM, nesterov=True, weight_decay=decay),
    }[name]
    made = KernelDecay(made)
    return Averaged(made, options.average) if options.average else made


def schedule(options: TrainOptions, phase: Phase, steps: int) -> schedules.Schedule:
    name = options.schedule or ("one-cycle" if phase.name == "scratch" else "constant")
    if name == "constant" or steps < FEWEST_STEPS:
        return lambda step: phase.rate
    shape = schedules.cosine if name == "cosine" else schedules.one_cycle
    return shape(phase.rate, steps)


def class_weights(dataset: Dataset) -> NDArray[np.float32]:
    """N / (classes · pictures of the class): scikit-learn's "balanced"."""
    counts = np.array(list(dataset.counts.values()), np.float32)
    return np.asarray(len(dataset) / (len(counts) * np.maximum(counts, 1)), np.float32)
