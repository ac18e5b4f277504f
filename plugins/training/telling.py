"""What a training says of itself: before a phase, behind each epoch, and at the end."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cnnkit import Model
from cnnkit.plugins.training.course import Course, Row
from cnnkit.plugins.training.options import TrainOptions
from cnnkit.plugins.training.phases import Phase
from cnnkit.plugins.training.surgery import Weights
from cnnkit.plugins.wording import duration


def described(phase: Phase, weights: Sequence[Weights]) -> str:
    """The layers with weights, and how many numbers of each learn."""
    wide = max(len(row.layer) for row in weights)
    lines = [
        f"  {row.layer:<{wide}}  {row.operator:<18} {row.output:>14} {row.trainable:>12,} {row.frozen:>12,}"
        for row in weights
    ]
    trainable, frozen = sum(row.trainable for row in weights), sum(row.frozen for row in weights)
    head = f"  {'layer':<{wide}}  {'operator':<18} {'output':>14} {'trainable':>12} {'frozen':>12}"
    what = (
        f"{phase.name}: {trainable:,} numbers learn, {frozen:,} stay; {phase.epochs} epochs at {phase.rate:g}"
    )
    return "\n".join([head, *lines, what])


SPLIT = ("validation", "split", "seed")
"""The options that say which pictures are held out."""


def seen_before(model: Model, options: TrainOptions, seed: int) -> str:
    """A warning where the network's own training held out other pictures than one with these options."""
    record = model.training
    if not record or options.validation_folder:
        return ""
    before, now = (
        {**asked, "seed": at} for asked, at in ((record["options"], record["seed"]), (asdict(options), seed))
    )
    if all(before[name] == now[name] for name in SPLIT):
        return ""
    as_before = " ".join(f"--{name} {before[name]}" for name in SPLIT)
    return (
        f"{model.name} was trained with {as_before}, so it has learned from pictures that this training "
        "validates with; the same three hold out the same pictures."
    )


def label(course: Course) -> str:
    if not course.rows:
        return "epoch 1"
    row = course.rows[-1]
    told = "" if math.isnan(row.validation_accuracy) else f": {row.validation_accuracy:.1%} so far"
    return f"epoch {row.epoch + 1}{told}"


def line(row: Row, phase: Phase) -> str:
    validated = f"validation {row.validation_loss:.4f}, {row.validation_accuracy:.1%}; "
    return (
        f"{phase.name} {row.epoch}/{phase.epochs}: loss {row.loss:.4f}, accuracy {row.accuracy:.1%}; "
        f"{'' if math.isnan(row.validation_loss) else validated}{row.pictures_per_second:.0f} pictures/s"
    )


def summary(data: dict[str, Any]) -> str:
    found = "nothing to validate with"
    if data["validated_with"]:
        found = (
            f"validation accuracy {data['validation_accuracy']:.1%} of {data['validated_with']}, "
            f"loss {data['validation_loss']:.4f}"
        )
    return (
        f"{len(data['classes'])} classes, {data['pictures']} pictures, {data['epochs']} epochs in "
        f"{duration(data['training_seconds'])}; {data['stopped']}\n"
        f"  best: {data['best_phase']} epoch {data['best_epoch']}, {found}"
    )
