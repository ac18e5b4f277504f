"""The way up: steps of Adam along the gradient, the picture moved before each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnkit import Adam, Context, Image, Model, TrainingSession
from cnnkit.plugins.visualisation.canvas import PICTURE, canvas
from cnnkit.plugins.visualisation.objective import Objective
from cnnkit.plugins.visualisation.parametrisation import Array, Parametrisation
from cnnkit.plugins.visualisation.transforms import Motion, Transforms, view


@dataclass(frozen=True, eq=False)
class Ascent:
    """From noise to the picture that makes an objective large.

    `session` is that of a canvas, with the objective as its loss. `wanted` is what the objective is fed, None
    for that of a whole layer.
    """

    session: TrainingSession
    parametrisation: Parametrisation
    transforms: Transforms

    @staticmethod
    def of(
        model: Model,
        objective: Objective,
        parametrisation: Parametrisation,
        transforms: Transforms,
        context: Context,
    ) -> "Ascent":
        """For a network; the session is kept for the next time."""
        session = context.training(
            canvas(model, objective.tensor, parametrisation),
            objective,
            ("input",),
            (PICTURE,),
            optimizer=Adam(),
        )
        return Ascent(session, parametrisation, transforms)

    def begin(self, random: np.random.Generator, wanted: Array | None) -> Image:
        """From new noise, which is shown."""
        for name, first in self.session.graph.state.items():
            self.session.write(name, first)
        self.session.write("input", self.parametrisation.first(random))
        return self.picture(wanted)

    def steps(
        self, count: int, rate: float, random: np.random.Generator, wanted: Array | None
    ) -> Iterator[float]:
        """Takes `count` steps and says what was reached before each."""
        for _ in range(count):
            motion = self.transforms.motion(self.parametrisation.size, random)
            losses = self.session.step({**self._feeds(motion, wanted), "learning_rate": rate})
            yield -losses["total"]

    def picture(self, wanted: Array | None) -> Image:
        """Where it is, without any motion, as 8-bit pixels."""
        found = self.session.gradient(self._feeds(Motion(), wanted)).taps[PICTURE]
        pixels = np.rint(255 * found[0].transpose(1, 2, 0)).astype(np.uint8)
        return Image(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))

    def _feeds(self, motion: Motion, wanted: Array | None) -> dict[str, Any]:
        feeds = view(motion, self.parametrisation.size)
        return feeds if wanted is None else {**feeds, "wanted": wanted}
