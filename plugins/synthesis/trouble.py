"""Numbers that are not finite: where they came up first."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Model

Array = NDArray[np.float32]


class NotFinite(Exception):
    """The losses or their gradient at x are infinite or no numbers."""

    def __init__(self, x: Array, losses: Mapping[str, float]) -> None:
        self.x = x
        self.losses = losses


def finite(losses: Mapping[str, float]) -> bool:
    return all(math.isfinite(loss) for loss in losses.values())


def first_trouble(eye: Model, trouble: NotFinite, context: Context) -> str:
    """What became infinite or no number first: x, a layer, a part of the loss, or the gradient."""
    if not np.isfinite(trouble.x).all():
        return "the picture"
    parts = [part for part in eye.parts if part.tensor in eye.graph.producers]
    values = context.session(eye).run(trouble.x, [part.tensor for part in parts])
    for part in parts:
        if not np.isfinite(values[part.tensor]).all():
            return f"the layer '{part.name}'"
    for name, loss in trouble.losses.items():
        if not math.isfinite(loss):
            return f"the loss '{name}'"
    return "the gradient"
