"""Training: a classifier of one's own pictures, from a network that has learned others, or from nothing.

`training/surgery.py` puts a new head on the network, `training/learner.py` says what of it learns, and
`training/course.py` teaches it.
"""

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnkit import (
    Context,
    Model,
    ModelError,
    Operation,
    Result,
    UsageError,
    folded,
    hookimpl,
    manifest_of,
)
from cnnkit.plugins.interrupting import whole
from cnnkit.plugins.training import record
from cnnkit.plugins.training.course import Course, Plan, Row
from cnnkit.plugins.training.feeding import Feeder
from cnnkit.plugins.training.learner import HeadAlone, Learner, WholeNetwork
from cnnkit.plugins.training.options import TrainOptions
from cnnkit.plugins.training.phases import Phase, class_weights, optimizer, phases, schedule
from cnnkit.plugins.training.sets import readable, sets, sheet
from cnnkit.plugins.training.surgery import has_head, weights_of, with_head
from cnnkit.plugins.training.telling import described, label, line, seen_before, summary

BATCH = 32
CHECKPOINT = 30.0
"""Seconds between two checkpoints."""
DEFAULT_SIZE = 224


def train(folder: Path, model: Model, options: TrainOptions, context: Context) -> Result:
    """See `TrainOptions`.

    Files: "onnx" the network at its best epoch and "last.onnx" as it ended, "history.csv", "curves.png" and
    "split.csv". Pictures: "pictures" and, where they are augmented, "augmented".
    """
    training = Training(folder, model, options, context)
    try:
        training.go()
    except KeyboardInterrupt:
        training.keep()
        raise
    return training.result()


class Training:
    """A network that is being trained, phase after phase."""

    def __init__(self, folder: Path, model: Model, options: TrainOptions, context: Context) -> None:
        self.options, self.context = options, context
        self.others = {path: record.read(path) for path in options.beside}
        split = sets(folder, options, context)
        base = _sized(model, context)
        knows = base.labels == split.train.classes and has_head(base)
        self.phases = phases(options, knows)
        random = np.random.default_rng(context.seed)
        self.model = base if knows else with_head(base, split.train.classes, random)
        if knows and (warning := seen_before(base, options, context.seed)):
            context.say(warning)
        self.batch = context.settings.batch or BATCH
        self._check()
        threads, unit = context.settings.threads or 2, self.model.preprocessing
        self.pictures = readable(
            Feeder(split.train, unit, options.augmentation, context.seed, threads), options, context
        )
        self.validation = readable(Feeder(split.validation, unit, threads=threads), options, context)
        self._earlier: list[Row] = []
        self._number = 0
        self._course: Course | None = None

    def _check(self) -> None:
        """Before anything is read or trained. Raises UsageError and ModelError."""
        layer, graph = self.options.from_layer, self.model.graph
        if layer and self.options.way != "fine-tuned":
            raise UsageError(f"--from-layer says what is fine-tuned, and --way is {self.options.way}.")
        if layer:
            self.model.find([layer])
        if (
            graph.batch
            and any(self._through_all(phase) for phase in self.phases)
            and self.batch != graph.batch
        ):
            raise ModelError(
                f"'{self.model.name}' takes exactly {graph.batch} picture(s) at a time: say --batch "
                f"{graph.batch}, or export it with a batch of any size."
            )

    def _through_all(self, phase: Phase) -> bool:
        """Whether pictures go through the whole network in each epoch, and not their features alone."""
        return phase.first is not None or bool(self.options.augmentation)

    @property
    def phase(self) -> Phase:
        return self.phases[self._number]

    @property
    def rows(self) -> list[Row]:
        """Of all phases so far."""
        return self._earlier + (self._course.rows if self._course else [])

    def go(self) -> None:
        """To the end, from the checkpoint where the user asks for it."""
        state = self.context.restore()
        if state:
            if str(state["pictures"]) != self._pictures:
                raise UsageError(
                    f"{self.pictures.dataset.root} has other pictures, or --batch is another, than when the "
                    "training was interrupted: say it without --resume to start anew."
                )
            self._number = int(state["phase"])
            self._earlier = [Row(*row) for row in json.loads(str(state["earlier"]))]
        while True:
            course = self._course = self._made(self.phase)
            if state:
                course.take_up(state)
                state = None
            self._teach(course)
            self._save(course)
            if self._number + 1 == len(self.phases):
                return
            self._earlier += course.rows
            self.model = course.model(best=True)
            self._number, self._course = self._number + 1, None

    def keep(self) -> None:
        """What there is after an interruption, and what is needed to go on."""
        if self._course:
            self._save(self._course)
            if self._course.rows:
                self.context.emit(self.result())

    def _made(self, phase: Phase) -> Course:
        """The course of a phase, at its beginning."""
        options = self.options
        weights = weights_of(self.model, phase.first)
        self.context.say(described(phase, weights))
        moved = optimizer(options, phase)
        learner: Learner
        if not self._through_all(phase):
            learner = HeadAlone(self.model, moved, self.context, self.pictures, self.validation)
        else:
            trained = [name for layer in weights for name in layer.trained]
            learner = WholeNetwork(
                self.model, trained, moved, self.context, self.pictures, self.validation, phase.batch_norm
            )
        steps = phase.epochs * -(-len(self.pictures.dataset) // self.batch)
        plan = Plan(
            phase.epochs,
            self.batch,
            schedule(options, phase, steps),
            self.context.seed,
            options.smoothing,
            class_weights(self.pictures.dataset) if options.class_weights == "balanced" else None,
            options.mixup,
            options.patience,
            "average" if options.average else "",
        )
        return Course(phase.name, learner, plan, self.pictures.dataset, self.validation.dataset)

    def _teach(self, course: Course) -> None:
        saved, told = time.monotonic(), len(course.rows)
        left = (self.phase.epochs - len(course.rows)) * course.steps_per_epoch
        for _ in self.context.progress(whole(course.steps()), left, lambda: label(course)):
            if len(course.rows) > told:
                told = len(course.rows)
                self.context.say(line(course.rows[-1], self.phase))
            if time.monotonic() - saved > CHECKPOINT:
                self._save(course)
                saved = time.monotonic()

    def _save(self, course: Course) -> None:
        earlier = np.array(json.dumps(self._earlier))
        told = {"phase": np.array(self._number), "earlier": earlier, "pictures": np.array(self._pictures)}
        self.context.save(course.state() | told)

    @property
    def _sets(self) -> str:
        """Which picture is in which set."""
        return manifest_of({"train": self.pictures.dataset, "validation": self.validation.dataset})

    @property
    def _pictures(self) -> str:
        """A digest of the pictures of each step, by their names."""
        return hashlib.sha256(f"{self.batch}\n{self._sets}".encode()).hexdigest()

    def result(self) -> Result:
        """Of a training with an epoch at least."""
        course, options = self._course, self.options
        assert course and course.best_row
        best, last = (self._finished(course.model(best), options) for best in (True, False))
        made = Result({"pictures": sheet(self.pictures, augmented=False)})
        if options.augmentation:
            made.pictures["augmented"] = sheet(self.pictures, augmented=True)
        made.files = {
            "onnx": b"".join(best.serialised()),
            "last.onnx": b"".join(last.serialised()),
            "history.csv": record.table(self.rows),
            "curves.png": record.curves(self.rows, self.others),
            "split.csv": self._sets.encode(),
        }
        made.data = self._data(course)
        made.text = summary(made.data)
        return made

    def _finished(self, model: Model, options: TrainOptions) -> Model:
        """The network with what a user of it wants to know."""
        model = folded(model) if options.fold else model
        return replace(
            model,
            name=f"{self.model.name}-{self.pictures.dataset.root.name}",
            origin=f"trained by cnnkit on {self.pictures.dataset.root.name}, from {self.model.name}",
            training=self._told(),
        )

    def _told(self) -> dict[str, Any]:
        """The training record: JSON-able, without paths of this machine."""
        options = asdict(self.options)
        for name in ("validation_folder", "classes", "beside"):
            del options[name]
        if self.options.validation_folder:
            options["validation"] = 0.0  # none of the folder itself was held out
        best = self._course.best_row if self._course else None
        return {
            "options": options,
            "seed": self.context.seed,
            "batch": self.batch,
            "pictures": len(self.pictures.dataset),
            "validated_with": len(self.validation.dataset),
            "phases": [asdict(phase) for phase in self.phases],
            "best": best.to_json() if best else None,
            "epochs": [row.to_json() for row in self.rows],
        }

    def _data(self, course: Course) -> dict[str, Any]:
        assert course.best_row
        return {
            "validation_accuracy": course.best_row.validation_accuracy,
            "validation_loss": course.best_row.validation_loss,
            "best_epoch": course.best_row.epoch,
            "best_phase": course.best_row.phase,
            "epochs": len(self.rows),
            "stopped": course.ended or "interrupted",
            "training_seconds": sum(row.seconds for row in self.rows),
            "pictures": len(self.pictures.dataset),
            "validated_with": len(self.validation.dataset),
            "phases": [asdict(phase) for phase in self.phases],
            "classes": list(self.pictures.dataset.classes),
            "counts": {
                "train": self.pictures.dataset.counts,
                "validation": self.validation.dataset.counts,
            },
            "weights": [
                {"layer": row.layer, "trainable": row.trainable, "frozen": row.frozen}
                for row in weights_of(self.model, self.phase.first)
            ],
        }


def _sized(model: Model, context: Context) -> Model:
    """The network with one input size. Networks that take any are trained at DEFAULT_SIZE."""
    unit = model.preprocessing
    if unit.height and unit.width:
        return model
    context.say(f"{model.name} takes any size: trained at {DEFAULT_SIZE}; say --input-size otherwise")
    return replace(model, preprocessing=replace(unit, height=DEFAULT_SIZE, width=DEFAULT_SIZE))


def network(options: TrainOptions) -> str:
    """What is trained where the user names none."""
    return "small-vgg" if options.way == "scratch" else "default"


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("train", train, TrainOptions, takes="folder", network=network)]
