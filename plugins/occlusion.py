"""Occlusion: hide one window of the picture after the other and map how far the score of a class falls.

The definition is captum's (`captum.attr.Occlusion`): along each side D of the network's input a patch of side
P stands at 0, S, 2S, ... in ceil((D - P) / S) + 1 positions, the last one cut off at the border; the value of
a pixel is the mean of f(x) - f(x with the window hidden) over the windows that cover it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Geometry, Image, Model, Operation, Option, Result, hookimpl
from cnnkit.plugins.baselines import WORDS, Colour, baseline_input, parse_baseline
from cnnkit.plugins.explaining import (
    Alpha,
    ColourMap,
    Plain,
    Score,
    Sign,
    Target,
    ask,
    described,
    draw,
    on_picture,
    shown,
)
from cnnkit.plugins.windows import Size, Windows, parse_size

# What can be chosen


def parse_value(value: Any) -> str | Colour:
    """What hides: see `parse_baseline`."""
    return parse_baseline(value, "a patch")


@dataclass(frozen=True)
class OcclusionOptions:
    """Slide a patch over the picture and map how far the score of a class falls.

    Red is what the class stands on: hiding it lowers the score. Blue is what speaks against it. Sizes are
    pixels of the network's input, whatever the size of the picture.
    """

    patch: Annotated[
        Size | None,
        Option("size of the patch, N or HEIGHTxWIDTH (default: a seventh of the input)", parse=parse_size),
    ] = None
    stride: Annotated[
        Size | None, Option("step of the patch, at most its size (default: half of it)", parse=parse_size)
    ] = None
    value: Annotated[
        str | Colour,
        Option(
            f"what hides: grey, black, white, mean (colour of the picture), blur (of what it hides), {WORDS}",
            parse=parse_value,
        ),
    ] = (127.5, 127.5, 127.5)
    target: Target = "top"
    score: Score = "logits"
    sign: Annotated[Sign, Option("signed: zero is white; positive: only where the score falls")] = "signed"
    colourmap: ColourMap = None
    alpha: Alpha = 0.6
    blocks: Annotated[bool, Option("draw the map window by window, not smoothly")] = False
    plain: Plain = False


# The operation


def occlusion(picture: Image, model: Model, options: OcclusionOptions, context: Context) -> Result:
    """See `OcclusionOptions`.

    Arrays: `classes` (targets,) int64; `drops` (targets, rows, columns) float32, f(x) - f(x with the window
    hidden); `heatmap` (targets, height, width) float32, their mean at each pixel of the network's input.
    """
    question = ask(picture, model, options.target, options.score, context)
    classes, scores, watched = list(question.targets), question.scores, question.watched
    windows = Windows(question.size, options.patch, options.stride)
    blur = windows.patch.height / 2, windows.patch.width / 2
    hidden = baseline_input(picture, question.seen, model, options.value, blur)

    inputs = windows.inputs(question.tensor, hidden, model.preprocessing.layout)
    outputs = context.session(model).map(inputs, [model.logits.tensor, model.probabilities.tensor])
    followed = context.progress(outputs, len(windows), f"{picture.name}: windows")
    hidden_scores = np.stack([watched.of_one(output)[classes] for output in followed])
    drops = (scores[classes] - hidden_scores).T.reshape(len(classes), *windows.shape)
    heatmap = np.stack([windows.mean(drop) for drop in drops])

    targets = [
        question.said(index) | _extremes(drop, windows, question.geometry)
        for index, drop in zip(classes, drops, strict=True)
    ]
    data = {
        "prediction": question.prediction,
        "score": options.score,
        "targets": targets,
        "windows": list(windows.shape),
        "patch": list(windows.patch),
        "stride": list(windows.stride),
        "value": options.value,
    }

    pictures = {}
    legend = f"fall of the {question.noun} when hidden"
    for number, part in shown(question, context).items():
        heat = heatmap[number] if options.blocks else windows.by_step(heatmap[number])
        pictures[part] = draw(question, classes[number], heat, options, options.sign, legend)
    arrays = {"classes": np.array(classes), "drops": drops, "heatmap": heatmap}
    text = described(question, [_remark(target["highest"]) for target in targets])
    return Result(pictures, arrays, data, text=text)


# What is told


def _extremes(drop: NDArray[np.float32], windows: Windows, geometry: Geometry) -> dict[str, Any]:
    """The highest and the lowest of the windows' drops with their boxes, and the mean."""
    found: dict[str, Any] = {"mean": float(drop.mean())}
    for name, number in (("highest", int(drop.argmax())), ("lowest", int(drop.argmin()))):
        box = windows.box(number)
        found[name] = {
            "drop": float(drop.flat[number]),
            "network": _named(box),
            "picture": _named(round(on_picture(edge, side % 2, geometry)) for side, edge in enumerate(box)),
        }
    return found


def _named(box: Iterable[int]) -> dict[str, int]:
    return dict(zip(("top", "left", "bottom", "right"), box, strict=True))


def _remark(highest: dict[str, Any]) -> str:
    if highest["drop"] <= 0:
        return "falls under no window"
    place = "rows {top}-{bottom}, columns {left}-{right}".format(**highest["picture"])
    return f"falls by up to {highest['drop']:.3g} ({place})"


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("occlusion", occlusion, OcclusionOptions, takes="picture", needs="classifier")]
