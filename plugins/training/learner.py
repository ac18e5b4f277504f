"""What learns: a whole network from pictures, or its new head alone from features that are computed once.

The head alone is the same network with its loss on features that are fed: its graph has nothing of the base.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Context, Model, Session, TrainingSession, losses
from cnnkit.plugins.training.feeding import Feeder, Numbers
from cnnkit.plugins.training.surgery import BIAS, FEATURES, KERNEL, LOGITS

Array = NDArray[np.float32]

CACHE_BATCH = 32
"""Pictures of which the features are computed at a time."""


@dataclass(frozen=True)
class Classification:
    """The cross-entropy of the head's logits with `target` (N, classes), which is fed.

    With `features` the logits are computed from these, (N, `features`) numbers that are fed.
    """

    features: int = 0

    def __call__(self, builder: Builder, tap: Any) -> dict[str, Any]:
        op, kernel = builder.op, builder.tensor(KERNEL)
        if self.features:
            fed = builder.input("fed", ("batch", self.features))
            logits = op.Gemm(fed, kernel, builder.tensor(BIAS))
        else:
            logits = tap(LOGITS)
        target = builder.input("target", ("batch", kernel.shape[1]))
        return {"cross_entropy": losses.cross_entropy(op, logits, target)}


class Learner(Protocol):
    """A network that learns from the pictures of one set and is tried on those of another."""

    session: TrainingSession

    def inputs(self, indices: Iterable[Numbers], epoch: int) -> Iterator[Array]:
        """What a step takes, for pictures by their numbers."""

    def step(self, inputs: Array, target: Array, rate: float) -> tuple[float, Array]:
        """One update; the loss and the logits (N, classes) before it."""

    def validate(self, slot: str) -> Array:
        """The logits (N, classes) of all the pictures it is tried on; `slot` as for `trained`."""


class WholeNetwork:
    """Everything that is named in `trained` learns; `batch_norm` puts batch norms into training mode."""

    def __init__(
        self,
        model: Model,
        trained: Sequence[str],
        optimizer: Any,
        context: Context,
        pictures: Feeder,
        validation: Feeder,
        batch_norm: bool,
    ) -> None:
        self.session = TrainingSession(
            model,
            Classification(),
            trained,
            optimizer,
            taps=[LOGITS],
            training=batch_norm,
            seed=context.seed,
            device=context.settings.device,
            threads=context.settings.threads,
        )
        self._context, self._pictures, self._validation = context, pictures, validation

    def inputs(self, indices: Iterable[Numbers], epoch: int) -> Iterator[Array]:
        return self._pictures.batches(indices, epoch)

    def step(self, inputs: Array, target: Array, rate: float) -> tuple[float, Array]:
        found = self.session.step({"input": inputs, "target": target, "learning_rate": rate})
        return found["total"], self.session.tapped[LOGITS]

    def validate(self, slot: str) -> Array:
        return values_of(self.session.trained(slot), LOGITS, self._validation, self._context)


class HeadAlone:
    """The new head learns from the features of the base, which are computed at the beginning."""

    def __init__(
        self, model: Model, optimizer: Any, context: Context, pictures: Feeder, validation: Feeder
    ) -> None:
        self._features = values_of(model, FEATURES, pictures, context, "features")
        self._validation = self._features[:0]
        if len(validation.dataset):
            self._validation = values_of(model, FEATURES, validation, context, "features to validate with")
        loss = Classification(self._features.shape[1])
        where = context.settings
        self.session = TrainingSession(
            model, loss, [KERNEL, BIAS], optimizer, device=where.device, threads=where.threads
        )

    def inputs(self, indices: Iterable[Numbers], epoch: int) -> Iterator[Array]:
        return (self._features[np.asarray(batch)] for batch in indices)

    def step(self, inputs: Array, target: Array, rate: float) -> tuple[float, Array]:
        logits = self._logits(inputs, "")
        found = self.session.step({"fed": inputs, "target": target, "learning_rate": rate})
        return found["total"], logits

    def validate(self, slot: str) -> Array:
        return self._logits(self._validation, slot)

    def _logits(self, features: Array, slot: str) -> Array:
        kernel, bias = (self.session.read(f"{name}/{slot}" if slot else name) for name in (KERNEL, BIAS))
        return np.asarray(features @ kernel + bias)


def values_of(model: Model, tensor: str, pictures: Feeder, context: Context, label: str = "") -> Array:
    """A tensor (N, ...) of the network for all pictures as they are, in the order of their dataset."""
    session = Session(model, **asdict(context.settings))
    count = len(pictures.dataset)
    starts = range(0, count, CACHE_BATCH)
    batches = pictures.batches([range(s, min(s + CACHE_BATCH, count)) for s in starts], epoch=0)
    shown: Iterable[Array] = context.progress(batches, len(starts), label) if label else batches
    found = [session.run(batch, [tensor])[tensor] for batch in shown]
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
