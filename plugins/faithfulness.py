"""Faithfulness: the metrics of heat maps on a network, for maps of operations, of files, and of controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

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
    UsageError,
    hookimpl,
    resize_map,
)
from cnnkit.plugins.baselines import WORDS, Colour, baseline_input, parse_baseline
from cnnkit.plugins.explaining import Question, ask, parse_target, short
from cnnkit.plugins.metrics import (
    Box,
    Curve,
    average_drop,
    deletion,
    explained,
    increase_in_confidence,
    insertion,
    pointing_game,
)

CONTROLS = ("random", "edges")
"""Maps that know nothing of the network: uniform noise, and Sobel's edges of the picture."""
BLUR = 14
"""The standard deviation of a blurred baseline is this part of the input's shorter side: 16 pixels of 224."""


# What can be chosen


def parse_box(value: Any) -> Box:
    """ "top,left,bottom,right", or four numbers in that order."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        edges = [int(part) for part in parts]
    except (TypeError, ValueError):
        edges = []
    if len(edges) != 4 or not (0 <= edges[0] < edges[2] and 0 <= edges[1] < edges[3]):
        raise ValueError("a box is TOP,LEFT,BOTTOM,RIGHT in whole pixels, with bottom and right not included")
    return Box(*edges)


@dataclass(frozen=True)
class FaithfulnessOptions:
    """Measure heat maps: how the score falls and rises while parts of the picture are hidden in their order.

    Deletion hides the highest of the map first: a small area under the score is good. Insertion shows it
    first: a large area is good. The average drop is what the score loses, as a part of it, when only what the
    map marks is left. A map that is no better than `random` or `edges` explains nothing.
    """

    method: Annotated[
        tuple[str, ...],
        Option("operations that make a heat map, random, edges, or maps as .npy or .npz files"),
    ] = ("grad-cam", *CONTROLS)
    target: Annotated[str, Option("class: top, index or label", parse=parse_target, completes="labels")] = (
        "top"
    )
    steps: Annotated[int, Option("points of the curves after the first", min=1)] = 20
    baseline: Annotated[
        str | Colour,
        Option(
            f"what hides: grey, black, white, mean (colour of the picture), blur (of the picture), {WORDS}",
            parse=parse_baseline,
        ),
    ] = (127.5, 127.5, 127.5)
    box: Annotated[
        Box | None,
        Option("where the object is, TOP,LEFT,BOTTOM,RIGHT: plays the pointing game", parse=parse_box),
    ] = None
    tolerance: Annotated[float, Option("pixels that may be missing to the box", min=0)] = 0


# The operation


@dataclass(frozen=True)
class Measured:
    """One map of one picture."""

    method: str
    whole: float
    """The score of the picture."""
    masked: float
    """The score of what `explained` leaves of it."""
    deletion: Curve
    insertion: Curve
    hit: bool | None = None
    """Of the pointing game."""


def faithfulness(
    pictures: Iterator[Image], model: Model, options: FaithfulnessOptions, context: Context
) -> Iterator[Result]:
    """See `FaithfulnessOptions`. One result per picture, and where there are several one of their means.

    Arrays: `fractions` (points,) float64; `deletion` and `insertion` (methods, points) float64,
    probabilities; and of a single picture `heatmap` (methods, height, width) float32 on the network's input.
    """
    found = []
    for picture in pictures:
        measured, result = _measure(picture, model, options, context)
        found.append(measured)
        yield result
    if len(found) > 1:
        yield _summary(found, options)


def _measure(
    picture: Image, model: Model, options: FaithfulnessOptions, context: Context
) -> tuple[list[Measured], Result]:
    question = ask(picture, model, options.target, "probabilities", context)
    x, target = question.tensor, question.targets[0]
    blur = min(question.size) / BLUR
    baseline = baseline_input(picture, question.seen, model, options.baseline, (blur, blur))
    session = context.session(model)

    def scores(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = session.map(batch, [question.watched.tensor])
        return np.array([question.watched.of_one(output)[target] for output in outputs])

    heatmaps, measured = [], []
    for method in options.method:
        heatmap = _heatmap(method, question, context)
        spread = np.expand_dims(heatmap, question.channel_axis)
        one = Measured(
            method,
            float(question.scores[target]),
            float(scores(explained(x, baseline, spread)[None])[0]),
            deletion(scores, x, baseline, spread, options.steps),
            insertion(scores, x, baseline, spread, options.steps),
            _plays(heatmap, question.geometry, options),
        )
        heatmaps.append(heatmap)
        measured.append(one)

    data = {
        "prediction": question.prediction,
        "target": question.said(target),
        "baseline": options.baseline,
        "methods": [_row([one]) for one in measured],
    }
    curves = {
        "fractions": measured[0].deletion.fractions,
        "deletion": np.stack([one.deletion.scores for one in measured]),
        "insertion": np.stack([one.insertion.scores for one in measured]),
    }
    title = f"{picture.name}: {short(question.label(target))} {question.scores[target]:.3f}"
    return measured, _result(picture, title, data, curves, {"heatmap": np.stack(heatmaps)})


def _plays(heatmap: NDArray[np.float32], geometry: Geometry, options: FaithfulnessOptions) -> bool | None:
    if options.box is None:
        return None
    height, width = geometry.picture
    if options.box.bottom > height or options.box.right > width:
        raise UsageError(f"the box {tuple(options.box)} reaches out of a picture of {height}x{width} pixels")
    return pointing_game(geometry.to_picture(heatmap, outside=np.nan), options.box, options.tolerance)


# Maps


def _heatmap(method: str, question: Question, context: Context) -> NDArray[np.float32]:
    """(height, width) over the network's input, of a control, a file or an operation."""
    size, target = question.size, question.targets[0]
    if method == "random":
        return np.random.default_rng(context.seed).random(size, np.float32)
    if method == "edges":
        return edges(question.seen.pixels)
    if Path(method).suffix in (".npy", ".npz"):
        heatmap = _read(Path(method), target)
    else:
        if "target" not in {field.name for field in fields(context.host.operation(method).options)}:
            raise UsageError(f"the operation {method} explains no class")
        arrays = context.run(method, question.picture, target=target).arrays
        if "heatmap" not in arrays:
            raise UsageError(f"the operation {method} makes no heat map")
        heatmap = np.asarray(arrays["heatmap"][0], np.float32)
    if not np.isfinite(heatmap).all():
        raise UsageError(f"the map of {method} has values that are no numbers (NaN or infinite)")
    return heatmap if heatmap.shape == size else resize_map(heatmap, *size)


def edges(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """(height, width, 3) -> (height, width): the length of Sobel's gradient of the mean channel."""
    grey = np.pad(pixels.mean(axis=-1, dtype=np.float32), 1, mode="edge")
    smooth_down = grey[:-2] + 2 * grey[1:-1] + grey[2:]
    smooth_across = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    down, across = smooth_across[2:] - smooth_across[:-2], smooth_down[:, 2:] - smooth_down[:, :-2]
    return np.asarray(np.hypot(down, across), np.float32)


def _read(path: Path, target: int) -> NDArray[np.float32]:
    """A map from a file: (height, width), or one of (targets, height, width) with their `classes`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            heatmap, classes = loaded, None
        else:
            with loaded:
                name = "heatmap" if "heatmap" in loaded.files else loaded.files[0]
                heatmap = loaded[name]
                classes = loaded["classes"].tolist() if "classes" in loaded.files else None
    except Exception as error:  # zipfile and numpy complain in many ways
        raise UsageError(f"{path} holds no map: {error}") from None
    if heatmap.ndim == 3 and classes and len(classes) == len(heatmap):
        if target not in classes:
            raise UsageError(f"{path} has maps of the classes {classes}, not of {target}; choose a --target")
        heatmap = heatmap[classes.index(target)]
    if heatmap.ndim == 3 and len(heatmap) == 1:
        heatmap = heatmap[0]
    if heatmap.ndim != 2 or heatmap.dtype.kind not in "buif":
        raise UsageError(
            f"{path} holds an array of {heatmap.dtype} {heatmap.shape}, not a map (height, width)"
        )
    return heatmap.astype(np.float32)


# What is told and shown


def _row(measured: Sequence[Measured]) -> dict[str, Any]:
    """The metrics of one method, over the pictures."""
    whole, masked = [one.whole for one in measured], [one.masked for one in measured]
    row = {
        "method": measured[0].method,
        "deletion": float(np.mean([one.deletion.area for one in measured])),
        "insertion": float(np.mean([one.insertion.area for one in measured])),
        "average_drop": average_drop(whole, masked),
        "increase_in_confidence": increase_in_confidence(whole, masked),
    }
    hits = [one.hit for one in measured if one.hit is not None]
    return row | ({"pointing_game": float(np.mean(hits))} if hits else {})


def _result(
    picture: Image | None,
    title: str,
    data: dict[str, Any],
    curves: dict[str, NDArray[Any]],
    heatmaps: dict[str, NDArray[Any]],
) -> Result:
    pixels = _figure(title, data["methods"], curves)
    drawn = picture.with_pixels(pixels) if picture else Image.load(pixels)
    return Result({"": drawn}, curves | heatmaps, data, text=_text(title, data["methods"]))


def _summary(pictures: Sequence[Sequence[Measured]], options: FaithfulnessOptions) -> Result:
    """The means over the pictures; the curves at the same fractions for all sizes of pictures."""
    fractions = np.linspace(0, 1, options.steps + 1)
    curves = {"fractions": fractions}
    for name in ("deletion", "insertion"):
        all_curves = [[getattr(one, name) for one in measured] for measured in pictures]
        scores = [[np.interp(fractions, *curve) for curve in measured] for measured in all_curves]
        curves[name] = np.mean(scores, axis=0)
    rows = [_row(measured) for measured in zip(*pictures, strict=True)]
    data = {"pictures": len(pictures), "baseline": options.baseline, "methods": rows}
    return _result(None, f"mean of {len(pictures)} pictures", data, curves, {})


def _text(title: str, rows: Sequence[dict[str, Any]]) -> str:
    width = max(len(row["method"]) for row in rows)
    lines = [title, f"  {'':{width}}  deletion  insertion  average drop"]
    for row in rows:
        line = f"  {row['method']:{width}}  {row['deletion']:8.3f}  {row['insertion']:9.3f}"
        line += f"  {100 * row['average_drop']:10.1f} %"
        if "pointing_game" in row:
            line += f"  points at the box: {100 * row['pointing_game']:.0f} %"
        lines.append(line)
    return "\n".join(lines)


def _figure(title: str, rows: Sequence[dict[str, Any]], curves: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Both curves of every method, with the areas under them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(1, 2, sharey=True)
    words = {"deletion": ("hidden", "less is better"), "insertion": ("shown", "more is better")}
    for panel, (name, (verb, better)) in zip(panels, words.items(), strict=True):
        for row, scores in zip(rows, curves[name], strict=True):
            style = ":" if row["method"] in CONTROLS else "-"
            label = f"{Path(row['method']).name} {row[name]:.3f}"
            panel.plot(curves["fractions"], scores, style, label=label)
        panel.set_title(f"{name}: {better}")
        panel.set_xlabel(f"part of the picture {verb}")
        panel.legend(title="area under the curve")
    panels[0].set_ylabel("probability")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [
        Operation("faithfulness", faithfulness, FaithfulnessOptions, takes="pictures", needs="classifier")
    ]
