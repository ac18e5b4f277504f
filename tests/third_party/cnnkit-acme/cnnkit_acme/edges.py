"""The smallest useful operation."""

from dataclasses import dataclass

import numpy as np

from cnnkit import Context, Image, Operation, Result, hookimpl


@dataclass(frozen=True)
class EdgesOptions:
    """Draw where neighbouring pixels differ."""


def edges(picture: Image, model: None, options: EdgesOptions, context: Context) -> Result:
    grey = picture.flattened().pixels.astype(np.float32).mean(axis=2)
    steps = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    shown = np.repeat(steps.astype(np.uint8)[..., None], 3, axis=2)
    mean = float(steps.mean())
    return Result(
        pictures={"": picture.with_pixels(shown)},
        arrays={"steps": steps},
        data={"mean": mean},
        text=f"{picture.name}: mean step {mean:.3f}",
    )


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("edges", edges, EdgesOptions, needs="nothing")]
