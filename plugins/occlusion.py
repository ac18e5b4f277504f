"""Occlusion: hide one window of the picture after the other and map how far the score of a class falls.

The definition is captum's (`captum.attr.Occlusion`): along each side D of the network's input a patch of side
P stands at 0, S, 2S, ... in ceil((D - P) / S) + 1 positions, the last one cut off at the border; the value of
a pixel is the mean of f(x) - f(x with the window hidden) over the windows that cover it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import (
    Context,
    Geometry,
    Image,
    Model,
    Operation,
    Option,
    Result,
    drawing,
    hookimpl,
    label_of,
    resolve_targets,
)
from cnnkit.plugins.tiles import parse_colourmap
from cnnkit.plugins.windows import Size, Windows, parse_size

MOST_PICTURES = 20
"""Beyond so many targets only the one with the highest score is drawn; the arrays hold all of them."""

NOUNS = {"logits": "logit", "probabilities": "probability"}

Colour = tuple[float, float, float]


# What can be chosen


def parse_value(value: Any) -> str | Colour:
    """A word of its own ("mean", "blur", "zero"), or the colour as red, green and blue from 0 to 255."""
    words = {"grey": "127.5", "gray": "127.5"}
    if isinstance(value, str) and value in ("mean", "blur", "zero"):
        return value
    parts = words.get(value, value).split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    try:
        levels = [float(part) for part in parts]
    except ValueError:
        levels = _named_colour(str(value))
    if len(levels) not in (1, 3) or not all(0 <= level <= 255 for level in levels):
        raise ValueError(
            "a patch is grey, black, white, mean, blur, zero, a colour by name or as #rrggbb, "
            "or one number or three (red,green,blue) from 0 to 255"
        )
    return levels[0], levels[len(levels) // 2], levels[-1]


def _named_colour(name: str) -> list[float]:
    from PIL import ImageColor

    try:
        return [float(level) for level in ImageColor.getrgb(name)[:3]]
    except ValueError:
        return []


def parse_target(value: Any) -> str:
    """An index, a label, or several of them in a list, as a person would type them."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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
            "what hides: grey, black, white, mean (colour of the picture), blur (of what it hides), "
            "a colour (name, #rrggbb, r,g,b or one level 0..255), or zero in the network's own numbers",
            parse=parse_value,
        ),
    ] = (127.5, 127.5, 127.5)
    target: Annotated[
        str,
        Option(
            "classes: top, top:K, index, label, all, or several with commas",
            parse=parse_target,
            completes="labels",
        ),
    ] = "top"
    score: Annotated[Literal["logits", "probabilities"], Option("what is watched while it falls")] = "logits"
    sign: Annotated[
        Literal["signed", "positive"], Option("signed: zero is white; positive: only where the score falls")
    ] = "signed"
    colourmap: Annotated[
        str | None, Option("colour map (default: blue-red if signed, else magma)", parse=parse_colourmap)
    ] = None
    alpha: Annotated[float, Option("opacity of the map on the picture", min=0, max=1)] = 0.6
    blocks: Annotated[bool, Option("draw the map window by window, not smoothly")] = False
    plain: Annotated[bool, Option("the overlaid picture at its own size, no caption, no legend")] = False


# The operation


def hidden_input(
    picture: Image, seen: Image, model: Model, value: str | Colour, patch: Size
) -> NDArray[np.float32]:
    """The network's input, without its batch dimension, as it is where it is hidden.

    `seen` is what the network sees of the picture. A blur has the standard deviation of half the patch.
    """
    if value == "blur":
        from PIL import ImageFilter

        blur = ImageFilter.GaussianBlur((patch.width / 2, patch.height / 2))
        pixels: NDArray[Any] = np.asarray(seen.pil().convert("RGB").filter(blur))
    else:
        colour = picture.flattened().pixels.mean(axis=(0, 1)) if value == "mean" else value
        pixels = np.broadcast_to(0.0 if value == "zero" else colour, seen.pixels.shape)
    numbers = model.preprocessing.to_network(pixels)
    return np.zeros_like(numbers) if value == "zero" else numbers


def occlusion(picture: Image, model: Model, options: OcclusionOptions, context: Context) -> Result:
    """See `OcclusionOptions`.

    Arrays: `classes` (targets,) int64; `drops` (targets, rows, columns) float32, f(x) - f(x with the window
    hidden); `heatmap` (targets, height, width) float32, their mean at each pixel of the network's input.
    """
    prepared = model.preprocessing.apply(picture)
    windows = Windows(prepared.picture.size, options.patch, options.stride)
    hidden = hidden_input(picture, prepared.picture, model, options.value, windows.patch)

    session = context.session(model)
    watched = model.logits if options.score == "logits" else model.probabilities
    taps = [model.logits.tensor, model.probabilities.tensor]
    whole = session.run(prepared.tensor, taps)
    scores = watched.of(whole)[0]
    classes = resolve_targets(options.target, model.labels, scores)

    inputs = windows.inputs(prepared.tensor[0], hidden, model.preprocessing.layout)
    outputs = context.progress(session.map(inputs, taps), len(windows), f"{picture.name}: windows")
    hidden_scores = np.stack([watched.of_one(output)[classes] for output in outputs])
    drops = (scores[classes] - hidden_scores).T.reshape(len(classes), *windows.shape)
    heatmap = np.stack([windows.mean(drop) for drop in drops])

    targets = [
        {"class": index, "label": label_of(index, model.labels), "score": float(scores[index])}
        | _extremes(drop, windows, prepared.geometry)
        for index, drop in zip(classes, drops, strict=True)
    ]
    data = {
        "prediction": _prediction(model, model.probabilities.of(whole)[0]),
        "score": options.score,
        "targets": targets,
        "windows": list(windows.shape),
        "patch": list(windows.patch),
        "stride": list(windows.stride),
        "value": options.value,
    }

    drawn = _drawn(targets)
    if len(drawn) < len(targets):
        context.say(f"{picture.name}: the arrays hold all {len(targets)} targets, the picture shows the best")
    pictures = {}
    for number, part in drawn.items():
        heat = heatmap[number] if options.blocks else windows.by_step(heatmap[number])
        heat = prepared.geometry.to_picture(heat, outside=np.nan)
        pictures[part] = _picture(picture, heat, targets[number], options)
    arrays = {"classes": np.array(classes), "drops": drops, "heatmap": heatmap}
    return Result(pictures, arrays, data, text=_text(picture, data))


# What is told and shown


def _prediction(model: Model, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    return {"class": best, "label": label_of(best, model.labels), "probability": float(probabilities[best])}


def _extremes(drop: NDArray[np.float32], windows: Windows, geometry: Geometry) -> dict[str, Any]:
    """The highest and the lowest of the windows' drops with their boxes, and the mean."""
    found: dict[str, Any] = {"mean": float(drop.mean())}
    for name, number in (("highest", int(drop.argmax())), ("lowest", int(drop.argmin()))):
        box = windows.box(number)
        found[name] = {
            "drop": float(drop.flat[number]),
            "network": _named(box),
            "picture": _named(round(_on_picture(edge, side % 2, geometry)) for side, edge in enumerate(box)),
        }
    return found


def _named(box: Iterable[int]) -> dict[str, int]:
    return dict(zip(("top", "left", "bottom", "right"), box, strict=True))


def _on_picture(edge: float, axis: int, geometry: Geometry) -> float:
    """An edge in the network's input, 0 down or 1 across, in pixels of the picture."""
    (first, last), (start, stop) = geometry.placed[axis::2], geometry.seen[axis::2]
    return min(max(start + (edge - first) * (stop - start) / (last - first), start), stop)


def _drawn(targets: list[dict[str, Any]]) -> dict[int, str]:
    """The numbers of the targets that get a picture, and the part of its name; a single one has none."""
    if len(targets) == 1 or len(targets) > MOST_PICTURES:
        return {max(range(len(targets)), key=lambda number: targets[number]["score"]): ""}
    parts: dict[int, str] = {}
    for number, target in enumerate(targets):
        part = re.sub(r"\W+", "-", _short(target["label"]).lower()).strip("-")
        parts[number] = f"{part}-{target['class']}" if part in parts.values() else part
    return parts


def _picture(
    picture: Image, heat: NDArray[np.float32], target: dict[str, Any], options: OcclusionOptions
) -> Image:
    low = None
    if options.sign == "positive":
        heat, low = np.maximum(heat, 0), 0.0
    colourmap = options.colourmap or ("blue-red" if options.sign == "signed" else "magma")
    if options.plain:
        return drawing.overlay(picture.flattened(), heat, colourmap, options.alpha, low)
    noun = NOUNS[options.score]
    caption = f"{_short(target['label'])}: {noun} {drawing.compact(target['score'])}"
    label = f"fall of the {noun} when hidden"
    return drawing.heat_figure(picture, heat, caption, label, colourmap, options.alpha, low)


def _text(picture: Image, data: dict[str, Any]) -> str:
    prediction, noun = data["prediction"], NOUNS[data["score"]]
    lines = [f"{picture.name}  {_short(prediction['label'])} {prediction['probability']:.3f}"]
    for target in data["targets"][:MOST_PICTURES]:
        drop, box = target["highest"]["drop"], target["highest"]["picture"]
        place = "rows {top}-{bottom}, columns {left}-{right}".format(**box)
        fall = f"falls by up to {drop:.3g} ({place})" if drop > 0 else "falls under no window"
        lines.append(f"  {_short(target['label'])}: {noun} {target['score']:.3g}, {fall}")
    if len(data["targets"]) > MOST_PICTURES:
        lines.append(f"  and {len(data['targets']) - MOST_PICTURES} more classes")
    return "\n".join(lines)


def _short(label: str) -> str:
    """The first of a label's synonyms."""
    return label.split(",")[0]


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("occlusion", occlusion, OcclusionOptions, takes="picture", needs="classifier")]
