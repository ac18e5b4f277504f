"""The loop: x goes downhill, stage after stage, and each move can be looked at."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Loss, Model, ModelError, Reason, UsageError
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.descent import Descent
from cnnkit.plugins.synthesis.moving import Clock, Mover, TimeIsUp
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size, Stage, deadlines, stages
from cnnkit.plugins.synthesis.trouble import NotFinite, first_trouble
from cnnkit.plugins.synthesis.updates import Updates, optimizer

Array = NDArray[np.float32]

PATIENCE = 5
"""Losses that are not finite, one after the other and nothing lower in between, until it gives up."""
PAYS_FROM = 192
"""Pixels of the longer side from which on it is tried out whether convolutions gain from another form."""
FEWEST_ITERATIONS = 50
"""For fewer that would take longer than it saves."""


@dataclass(frozen=True)
class Moment:
    """A move of the loop.

    `number` counts evaluations of loss and gradient (L-BFGS) or updates (Adam, SGD) over all stages. `losses`
    are the weighted parts and their sum `total`; for Adam and SGD those in front of the update. `step` is the
    learning rate, or L-BFGS' multiple of its direction. `x()` is what would be shown now, in its unit: the
    mean of the iterates where the recipe has one. `seconds` are those of work so far, in all processes.
    """

    number: int
    stage: Stage
    losses: Mapping[str, float]
    step: float
    x: Callable[[], Array]
    seconds: float


@dataclass(frozen=True)
class Best:
    """The lowest total that was looked at in the present stage: each of L-BFGS, every tenth update."""

    total: float
    x: Array
    number: int


class Task(Protocol):
    """What is to be done: an objective of what the eye sees that is to become small, and how."""

    @property
    def eye(self) -> Model: ...

    @property
    def objective(self) -> Loss:
        """A frozen dataclass, so that sessions can be shared."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def context(self) -> Context: ...

    @property
    def size(self) -> Size:
        """Of the last and largest x."""

    def feeds(self, size: Size) -> Mapping[str, Any]:
        """Targets and weights for x of a size."""

    def start(self, size: Size) -> Array:
        """The first x, of the first size."""


class Synthesis:
    """Moves x from its start along the task's recipe until its objective is small, stage after stage.

    It ends after the recipe's iterations or after `seconds`, of which each stage has its share. Then `reason`
    says why, `x` is where it ended and `best` the best there.

    Losses that are not finite take it back to the best, with half the rate and without what the optimizer
    remembered. Raises ModelError where they are not finite at the start already.
    """

    def __init__(self, task: Task, seconds: float | None = None) -> None:
        self.stages = stages(task.recipe, task.size)
        self.best: Best | None = None
        self.reason = ""
        self._task = task
        self._deadlines = deadlines(self.stages, seconds)
        self._clock = Clock()
        self._stage = 0
        self._before = 0
        self._troubles = 0
        self._rewritten: tuple[str, ...] | None = None
        self._mover: Mover | None = None

    @property
    def stage(self) -> Stage:
        """The present one."""
        return self.stages[self._stage]

    @property
    def number(self) -> int:
        """Of the last moment."""
        return self._before + (self._mover.made if self._mover else 0)

    @property
    def x(self) -> Array:
        """What would be shown now, in the unit and the layout of x."""
        return self._moving().x

    @property
    def best_x(self) -> Array:
        """That of the lowest total that was looked at; where the recipe averages, the last."""
        return self.x if self._task.recipe.average or self.best is None else self.best.x

    @property
    def bytes(self) -> int:
        """An estimate of what activations and optimizer take at the present stage."""
        return self._moving().bytes

    def moments(self) -> Iterator[Moment]:
        """Each move, from where it is to the end."""
        self._clock.set(self._clock.seconds if self._mover else 0.0)
        while True:
            reason = yield from self._moments_of_stage()
            if self._stage + 1 == len(self.stages):
                break
            self._next_stage()
        if looked := self._moving().look():
            self._note(looked[0]["total"], looked[1])
        self.reason = reason

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that decides how it goes on; between two moments, for `take_up` bit for bit."""
        state = {f"mover/{name}": value for name, value in self._moving().state().items()}
        state |= {
            "made for": np.array(self._identity),
            "stage": np.array([self._stage, self._before, self._troubles]),
            "seconds": np.array(self._clock.seconds),
            "random": np.array(json.dumps(self._task.context.random.bit_generator.state)),
        }
        if self._rewritten is not None:
            state["rewritten"] = np.array(self._rewritten, np.str_)
        if self.best:
            state |= {"best/x": self.best.x, "best": np.array([self.best.total, self.best.number])}
        return state

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state, perhaps for more iterations. Raises UsageError for another's state."""
        if str(state.get("made for")) != self._identity:
            raise UsageError("the saved state is that of another run: its recipe, network or size differ")
        self._stage, self._before, self._troubles = map(int, state["stage"])
        self._rewritten = tuple(map(str, state["rewritten"])) if "rewritten" in state else None
        self.best = (
            Best(float(state["best"][0]), state["best/x"], int(state["best"][1])) if "best" in state else None
        )
        self._task.context.random.bit_generator.state = json.loads(str(state["random"]))
        self._mover = self._made(self.stage)
        self._mover.take_up(
            {name.removeprefix("mover/"): value for name, value in state.items() if name.startswith("mover/")}
        )
        self._clock.set(float(state["seconds"]))

    @property
    def _identity(self) -> str:
        recipe = replace(self._task.recipe, source="", iterations=0)
        return repr((recipe, self._task.objective, self.stages[-1].size, self._task.eye.sha256))

    def _moments_of_stage(self) -> Generator[Moment, None, str]:
        """Returned is why it ended."""
        mover = self._moving()
        while True:
            self._clock.deadline = self._deadlines[self._stage]
            try:
                step = mover.advance()
            except TimeIsUp:
                return str(Reason.SECONDS)
            except NotFinite as trouble:
                if sentence := self._go_back(mover, trouble):
                    return sentence
                continue
            if isinstance(step, Reason):
                return str(step)
            if step.x is not None:
                self._note(step.losses["total"], step.x)
            yield Moment(
                self.number, self.stage, step.losses, step.length, lambda: mover.x, self._clock.seconds
            )

    def _note(self, total: float, x: Array) -> None:
        if self.best is None or total < self.best.total:
            self.best = Best(total, x, self.number)
            self._troubles = 0

    def _go_back(self, mover: Mover, trouble: NotFinite) -> str:
        """Back to the best; or a sentence that says why that is given up."""
        where = first_trouble(self._task.eye, trouble, self._task.context)
        if self.best is None:
            raise ModelError(
                f"at the start {where} is infinite or no number: take smaller weights, or another start"
            )
        self._troubles += 1
        if self._troubles > PATIENCE:
            mover.go_back(self.best.x)
            return f"{where} became infinite or no number {self._troubles} times in a row: take smaller steps"
        self._task.context.say(
            f"{self.number}: {where} became infinite or no number; back to {self.best.number}, at half rate"
        )
        mover.go_back(self.best.x)
        return ""

    def _moving(self) -> Mover:
        if self._mover is None:
            mover = self._made(self.stage)
            mover.begin(self._task.start(self.stage.size), {})
            self._mover = mover
        return self._mover

    def _made(self, stage: Stage) -> Mover:
        """What moves x at a stage; it does not know yet from where."""
        recipe, unit = self._task.recipe, self._task.eye.preprocessing
        on_host = recipe.optimizer.startswith("lbfgs")
        session = self._task.context.training(
            self._task.eye,
            self._task.objective,
            ("input",),
            batch=1,
            size=stage.size,
            rewrites=self._rewrites(stage),
            max_memory=self._task.context.settings.max_memory,
            **({} if on_host else {"optimizer": optimizer(recipe, unit)}),
        )
        if _pays(stage):
            self._rewritten = session.rewritten
        kind = Descent if on_host else Updates
        return kind(session, self._task.feeds(stage.size), recipe, unit, stage.iterations, self._clock)

    def _rewrites(self, stage: Stage) -> Any:
        """What was found out is kept for later stages and processes, so that it cannot differ there."""
        if not _pays(stage):
            return "none"
        return "measured" if self._rewritten is None else self._rewritten

    def _next_stage(self) -> None:
        """x at the next size, and what the optimizer remembers.

        All that takes time comes first, so that an interruption finds the old stage or the new one.
        """
        before, layout = self._moving(), self._task.eye.preprocessing.layout
        stage = self.stages[self._stage + 1]
        x = units.resized(before.x, stage.size, layout)
        if self._task.recipe.clamp != "never":
            x = np.clip(x, *units.limits(self._task.eye.preprocessing))
        mover = self._made(stage)
        mover.begin(x, before.memory_at(stage.size, layout))
        self._before, self._stage = self.number, self._stage + 1
        self.best, self._mover = None, mover


def _pays(stage: Stage) -> bool:
    return max(stage.size) >= PAYS_FROM and stage.iterations >= FEWEST_ITERATIONS
