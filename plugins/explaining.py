"""What operations share that explain a score: their options, the question, its gradients, what is shown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Annotated, Any, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cnnkit import (
    Context,
    Geometry,
    Image,
    Model,
    Option,
    Scores,
    drawing,
    label_of,
    resolve_targets,
)
from cnnkit.plugins.tiles import parse_colourmap

MOST_PICTURES = 20
"""Beyond so many targets only the one with the highest score is drawn; the arrays hold all of them."""
SEEN = 99.5
"""Per cent of the pixels of a fine map that its colours tell apart."""

NOUNS = {"logits": "logit", "probabilities": "probability"}

Array = NDArray[np.float32]
Found = TypeVar("Found")


# Options: each operation takes from these what it has


def parse_target(value: Any) -> str:
    """An index, a label, or several of them in a list, as a person would type them."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


Target = Annotated[
    str,
    Option(
        "classes: top, top:K, index, label, all, or several with commas",
        parse=parse_target,
        completes="labels",
    ),
]
Score = Annotated[
    Literal["logits", "probabilities"],
    Option("what is explained; probabilities also rise when other classes fall, and saturate"),
]
Sign = Literal["signed", "positive"]
ColourMap = Annotated[
    str | None, Option("colour map (default: blue-red if signed, else magma)", parse=parse_colourmap)
]
Alpha = Annotated[float, Option("opacity of the map on the picture", min=0, max=1)]
Smooth = Annotated[
    float | None,
    Option(
        "deviation of the Gaussian that the drawn map is smoothed with, in pixels of the network's input; "
        "0 for none (default: a hundredth of the input)",
        min=0,
    ),
]
Plain = Annotated[bool, Option("the overlaid picture at its own size, no caption, no legend")]
Check = Annotated[
    bool, Option("also test the explanation: does it add up, and does it depend on weights and class?")
]


class Drawn(Protocol):
    """The options of whatever draws a map."""

    @property
    def colourmap(self) -> str | None: ...
    @property
    def alpha(self) -> float: ...
    @property
    def plain(self) -> bool: ...


# The question


def per_model(function: Callable[..., Found]) -> Callable[..., Found]:
    """Remembers what a function of a network and more finds, as long as the network lives.

    Going through a graph takes longer than running a small network, and every picture would do it again.
    """
    known: WeakKeyDictionary[Model, dict[Any, Found]] = WeakKeyDictionary()

    @wraps(function)
    def remembered(model: Model, *more: Any) -> Found:
        found = known.setdefault(model, {})
        if more not in found:
            found[more] = function(model, *more)
        return found[more]

    return remembered


@dataclass(frozen=True, eq=False)
class Question:
    """Why does the network give these classes their scores on this picture?

    `tensor` is the network's input without its batch dimension, `scores` (classes,) are the watched ones of
    every class, `targets` the classes asked about, `prediction` what the network says.
    """

    picture: Image
    model: Model
    seen: Image
    geometry: Geometry
    tensor: Array
    watched: Scores
    noun: str
    scores: Array
    targets: tuple[int, ...]
    prediction: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.seen.size

    @property
    def channel_axis(self) -> int:
        """Of `tensor`."""
        return 0 if self.model.preprocessing.layout == "nchw" else 2

    def about(self, model: Model, targets: Sequence[int]) -> "Question":
        """The same of another network with the same tensors, or of other classes."""
        return replace(self, model=model, targets=tuple(targets))

    def label(self, index: int) -> str:
        return label_of(index, self.model.labels)

    def said(self, index: int) -> dict[str, Any]:
        """A target as the data of a result have it."""
        return {"class": index, "label": self.label(index), "score": float(self.scores[index])}


def ask(picture: Image, model: Model, target: str, score: str, context: Context) -> Question:
    """Show the network the picture, and find out which classes `target` means."""
    prepared = model.preprocessing.apply(picture)
    watched = model.logits if score == "logits" else model.probabilities
    outputs = context.session(model).run(prepared.tensor, [model.logits.tensor, model.probabilities.tensor])
    scores = watched.of(outputs)[0]
    probabilities = model.probabilities.of(outputs)[0]
    best = int(probabilities.argmax())
    return Question(
        picture,
        model,
        prepared.picture,
        prepared.geometry,
        prepared.tensor[0],
        watched,
        NOUNS[score],
        scores,
        tuple(resolve_targets(target, model.labels, scores)),
        {
            "class": best,
            "label": label_of(best, model.labels),
            "probability": float(probabilities[best]),
        },
    )


# What is told


def described(question: Question, remarks: Sequence[str], *below: str) -> str:
    """The prediction, a line for each target, and what else there is to say."""
    lines = [
        f"{question.picture.name}  {short(question.prediction['label'])} "
        f"{question.prediction['probability']:.3f}"
    ]
    for index, remark in list(zip(question.targets, remarks, strict=True))[:MOST_PICTURES]:
        score = f"{question.noun} {question.scores[index]:.3g}"
        lines.append(f"  {short(question.label(index))}: {score}, {remark}")
    if len(question.targets) > MOST_PICTURES:
        lines.append(f"  and {len(question.targets) - MOST_PICTURES} more classes")
    return "\n".join([*lines, *(f"  {line}" for line in below)])


def short(label: str) -> str:
    """The first of a label's synonyms."""
    return label.split(",")[0]


def extremes(question: Question, heat: Array) -> dict[str, Any]:
    """The range of a map over the network's input, and where on the picture its highest value lies."""
    geometry = question.geometry
    cell = np.unravel_index(int(heat.argmax()), heat.shape)
    sides = zip(cell, heat.shape, geometry.network, geometry.picture, strict=True)
    row, column = (
        min(int(on_picture((int(index) + 0.5) * pixels / cells, axis, geometry)), last - 1)
        for axis, (index, cells, pixels, last) in enumerate(sides)
    )
    return {
        "lowest": float(heat.min()),
        "highest": float(heat.max()),
        "place": {"row": row, "column": column},
    }


def told(extremes: Mapping[str, Any]) -> str:
    """What `extremes` found, in words."""
    place = extremes["place"]
    return (
        f"map {extremes['lowest']:.3g} to {extremes['highest']:.3g}, "
        f"highest at row {place['row']}, column {place['column']}"
    )


def on_picture(edge: float, axis: int, geometry: Geometry) -> float:
    """An edge in the network's input, 0 down or 1 across, in pixels of the picture."""
    (first, last), (start, stop) = geometry.placed[axis::2], geometry.seen[axis::2]
    return min(max(start + (edge - first) * (stop - start) / (last - first), start), stop)


# What is shown


def shown(question: Question, context: Context) -> dict[int, str]:
    """The numbers of the targets that get a picture, and the part of its name; a single one has none."""
    targets = question.targets
    if len(targets) == 1 or len(targets) > MOST_PICTURES:
        if len(targets) > 1:
            context.say(
                f"{question.picture.name}: the arrays hold all {len(targets)} targets, "
                "the picture shows the best"
            )
        return {max(range(len(targets)), key=lambda number: question.scores[targets[number]]): ""}
    parts: dict[int, str] = {}
    for number, index in enumerate(targets):
        part = re.sub(r"\W+", "-", short(question.label(index)).lower()).strip("-")
        parts[number] = f"{part}-{index}" if part in parts.values() else part
    return parts


def draw(
    question: Question,
    target: int,
    heat: Array,
    options: Drawn,
    sign: str,
    legend: str,
    high: float | None = None,
) -> Image:
    """A map over the network's input, of any resolution, on the picture.

    A signed one has white for zero; of a "positive" one only what is above zero counts. `high` is where the
    colours end, by default the largest value.
    """
    heat, low = question.geometry.to_picture(heat, outside=np.nan), None
    if sign == "positive":
        heat, low = np.maximum(heat, 0), 0.0
    colourmap = options.colourmap or ("blue-red" if sign == "signed" else "magma")
    if options.plain:
        return drawing.overlay(question.picture.flattened(), heat, colourmap, options.alpha, low, high)
    label = short(question.label(target))
    caption = f"{label}: {question.noun} {drawing.compact(float(question.scores[target]))}"
    return drawing.heat_figure(question.picture, heat, caption, legend, colourmap, options.alpha, low, high)


def fine(question: Question, heat: Array, smooth: float | None) -> tuple[Array, float]:
    """A map of single pixels as it is drawn, and the magnitude where its colours end.

    Single pixels speckle, so each becomes the mean around it, by a Gaussian of `smooth` pixels. And a few
    stick out so far that everything else would be one colour.
    """
    heat = _blurred(heat, min(question.size) / 100 if smooth is None else smooth)
    high = float(np.percentile(np.abs(heat), SEEN))
    return heat, high or float(np.abs(heat).max())


def _blurred(heat: Array, deviation: float) -> Array:
    reach = int(np.ceil(3 * deviation))
    if not reach:
        return heat
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        margin = [(reach, reach) if side == axis else (0, 0) for side in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(heat, margin, "edge"), len(weights), axis)
        heat = (windows @ weights).astype(np.float32)
    return heat
