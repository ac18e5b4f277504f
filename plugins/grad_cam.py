"""Grad-CAM and its relatives: the channels of a layer, weighted by what they do to the score of a class.

With A the layer's values (channels, height, width) and g the gradient of the score with respect to them:

- grad-cam: the sum of mean(g) · A over the channels (Selvaraju et al. 2017; captum's `LayerGradCam`);
- grad-cam++: weights sum(relu(g) · g² / (2 g² + sum(A) · g³ + 1e-6)) (Chattopadhyay et al. 2018);
- layercam: the sum of relu(g) · A (Jiang et al. 2021);
- hirescam: the sum of g · A (Draelos and Carin 2020); with a linear head it adds up to the score;
- xgradcam: weights sum(g · A) / (sum(A) + 1e-7) (Fu et al. 2020);
- scorecam: no gradient; the weights are the softmax, over the channels, of the score of the picture masked
  with each channel, which is enlarged and brought to 0..1 (Wang et al. 2020).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import (
    Context,
    Image,
    Layer,
    Model,
    Operation,
    Option,
    Plane,
    Result,
    UsageError,
    hookimpl,
    last_plane,
    planes,
    resize_map,
)
from cnnkit.plugins.explaining import (
    Alpha,
    Array,
    Check,
    ColourMap,
    Plain,
    Question,
    Score,
    Sign,
    Target,
    ask,
    described,
    draw,
    extremes,
    parse_target,
    per_model,
    shown,
    told,
)
from cnnkit.plugins.sanity import examine
from cnnkit.plugins.slopes import Slopes
from cnnkit.plugins.tiles import file_safe

Method = Literal["grad-cam", "grad-cam++", "layercam", "hirescam", "xgradcam", "scorecam"]
ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "HardSwish", "Sigmoid", "Mish"}


@dataclass(frozen=True)
class GradCamOptions:
    """Map where a layer speaks for a class: its channels, weighted by the gradient of the class's score.

    The map has the resolution of the layer and is enlarged smoothly. What speaks against the class is cut off
    unless --sign signed asks for it.
    """

    method: Annotated[Method, Option("how the channels are weighted")] = "grad-cam"
    layer: Annotated[
        str | None,
        Option(
            "one layer or several: names, indices, ranges, patterns with commas; several are drawn each, "
            "and their mean, each scaled to a largest magnitude of 1 (default: the last with a plane)",
            parse=parse_target,
            completes="layers",
        ),
    ] = None
    target: Target = "top"
    score: Score = "logits"
    sign: Annotated[
        Sign, Option("positive: what speaks for the class, as in the paper; signed: against it too, in blue")
    ] = "positive"
    channels: Annotated[
        int, Option("scorecam: only so many channels, those that vary most; 0 for all", min=0)
    ] = 0
    colourmap: ColourMap = None
    alpha: Alpha = 0.6
    plain: Plain = False
    check: Check = False


# The definitions: from a layer's values and their gradient, (channels, height, width) both, to a map


def _weighted(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    return np.tensordot(weights, values, axes=1)


def grad_cam(values: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    return _weighted(values, gradient.mean((1, 2)))


def grad_cam_plus_plus(values: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    square = gradient**2
    total = values.sum((1, 2), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = square / (2 * square + total * square * gradient + 1e-6)
    return _weighted(values, np.where(gradient > 0, gradient * share, 0).sum((1, 2)))


def layer_cam(values: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((np.maximum(gradient, 0) * values).sum(0))


def hires_cam(values: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((gradient * values).sum(0))


def xgrad_cam(values: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    return _weighted(values, (gradient * values).sum((1, 2)) / (values.sum((1, 2)) + 1e-7))


DEFINITIONS: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "layercam": layer_cam,
    "hirescam": hires_cam,
    "xgradcam": xgrad_cam,
}


# The layers


class Spot(NamedTuple):
    """A layer at which a map is made, and why there."""

    layer: Layer
    plane: Plane
    reason: str

    def of(self, values: Array) -> NDArray[np.float64]:
        """The layer's values for one picture, as (channels, height, width)."""
        return np.moveaxis(values, self.plane.axis - 1, 0).astype(np.float64)


@per_model
def spots(model: Model, patterns: str | None, size: tuple[int, int]) -> list[Spot]:
    """The layers that the patterns name, or the last with a plane. Raises UsageError for one without."""
    if patterns is None:
        return [Spot(*last_plane(model.graph, *size))]
    known = planes(model.graph, *size)
    found = []
    for layer in model.find(patterns):
        if layer.tensor not in known:
            raise UsageError(
                f"the layer '{layer.name}' does not lie over the picture, so it has no map; "
                f"the last that does is '{last_plane(model.graph, *size).layer.name}'"
            )
        plane = known[layer.tensor]
        found.append(Spot(layer, plane, f"layer '{layer.name}', as asked, {plane}"))
    return found


# The maps


@dataclass(frozen=True)
class Made:
    """The map of a class at a layer, (height, width), and why it is empty where it is."""

    values: Array
    empty: str = ""


def by_gradient(
    question: Question, at: Sequence[Spot], method: str, context: Context
) -> Iterator[list[Made]]:
    """For each target its map at each layer."""
    names = [spot.layer.tensor for spot in at]
    slopes = Slopes(question, context, names, taps=names)
    pairs = ((question.tensor, target) for target in question.targets)
    for slope in context.progress(
        slopes.map(pairs), len(question.targets), f"{question.picture.name}: classes"
    ):
        maps = []
        for spot, name in zip(at, names, strict=True):
            values, gradient = spot.of(slope.values[name]), spot.of(slope.gradients[name])
            found = DEFINITIONS[method](values, gradient).astype(np.float32)
            maps.append(Made(found, emptiness(question, spot, found, values, gradient)))
        yield maps


def by_masking(question: Question, at: Sequence[Spot], most: int, context: Context) -> Iterator[list[Made]]:
    """As `by_gradient`, for scorecam; every target shares the masked pictures."""
    session, targets = context.session(question.model), list(question.targets)
    tensors = session.run(question.tensor[None], [spot.layer.tensor for spot in at])
    found = []
    for spot in at:
        values = spot.of(tensors[spot.layer.tensor][0])
        # A channel that is the same everywhere masks nothing out.
        varying = np.flatnonzero(np.ptp(values, axis=(1, 2)))
        if most:
            varying = np.sort(varying[np.argsort(-values[varying].var((1, 2)), kind="stable")[:most]])
        inputs = (question.tensor * _mask(values[channel], question) for channel in varying)
        outputs = context.progress(
            session.map(inputs, [question.watched.tensor]),
            len(varying),
            f"{question.picture.name}: channels of {spot.layer.name}",
        )
        scores = [question.watched.of_one(output)[targets] for output in outputs]
        raised = np.array(scores, np.float64).reshape(-1, len(targets))
        powers = np.exp(raised - raised.max(0, initial=-np.inf))
        weights = powers / powers.sum(0)
        maps = np.tensordot(weights.T, values[varying], axes=1).astype(np.float32)
        found.append([Made(one, emptiness(question, spot, one, values)) for one in maps])
    yield from (list(maps) for maps in zip(*found, strict=True))


def _mask(channel: NDArray[Any], question: Question) -> Array:
    """A channel, enlarged to the network's input and brought to 0..1, to be multiplied with it."""
    mask = resize_map(channel.astype(np.float32), *question.size)
    mask = (mask - mask.min()) / ((mask.max() - mask.min()) or 1)
    return np.expand_dims(mask, question.channel_axis)


def emptiness(
    question: Question,
    spot: Spot,
    found: Array,
    values: NDArray[Any],
    gradient: NDArray[Any] | None = None,
) -> str:
    """Why nothing in a map speaks for the class; empty where something does."""
    if found.max(initial=-np.inf) > 0:
        return ""
    name = spot.layer.name
    if not values.any():
        return f"the layer '{name}' is zero on the whole picture"
    if gradient is not None and not gradient.any():
        why = "no gradient arrives at the layer"
        saturated = question.noun == "probability"
        return f"{why}: the softmax is saturated, explain --score logits" if saturated else why
    if not found.any():
        return "the channels that matter to the class are zero"
    why = f"negative everywhere ({found.min():.3g} to {found.max():.3g}): the layer speaks against the class"
    if after := _activation_after(question.model, spot.layer):
        why = f"{why}, or its negative values mislead: '{after}' is the layer behind its activation"
    return f"{why}; --sign signed shows it"


def _activation_after(model: Model, layer: Layer) -> str | None:
    reading = {node.output[0] for node in model.graph.skeleton.graph.node if layer.tensor in node.input}
    after = [one for one in model.parts if one.tensor in reading and one.operator in ACTIVATIONS]
    return after[0].name if after else None


def fused(maps: Sequence[Array], size: tuple[int, int]) -> Array:
    """The mean of maps over the network's input; several are each scaled to a largest magnitude of 1."""
    scaled = [one / (np.abs(one).max() or 1) if len(maps) > 1 else one for one in maps]
    return np.asarray(np.mean([resize_map(one, *size) for one in scaled], axis=0, dtype=np.float32))


# The operation


def run(picture: Image, model: Model, options: GradCamOptions, context: Context) -> Result:
    """See `GradCamOptions`.

    Arrays: `classes` (targets,) int64; `map` (targets, h, w) float32, signed, at the layer's resolution, or
    `map.LAYER` for each of several; `heatmap` (targets, height, width) float32 over the network's input, by
    the sign that was asked for: enlarged, or the scaled mean of several.
    """
    question = ask(picture, model, options.target, options.score, context)
    at = spots(model, options.layer, question.size)

    def explain(question: Question) -> list[list[Made]]:
        if options.method == "scorecam":
            return list(by_masking(question, at, options.channels, context))
        return list(by_gradient(question, at, options.method, context))

    found = explain(question)
    raw = [np.stack([maps[place].values for maps in found]) for place in range(len(at))]
    kept = [np.maximum(one, 0) if options.sign == "positive" else one for one in raw]
    heatmap = np.stack([fused([one[number] for one in kept], question.size) for number in range(len(found))])
    arrays = {"classes": np.array(question.targets), "heatmap": heatmap}
    for spot, one in zip(at, raw, strict=True):
        arrays["map" if len(at) == 1 else f"map.{file_safe(spot.layer.name)}"] = one

    targets = []
    for number, (target, maps) in enumerate(zip(question.targets, found, strict=True)):
        told = raw[0][number] if len(at) == 1 else heatmap[number]
        reasons = {spot.layer.name: one.empty for spot, one in zip(at, maps, strict=True) if one.empty}
        targets.append(question.said(target) | extremes(question, told) | {"empty": reasons})
    data: dict[str, Any] = {
        "prediction": question.prediction,
        "method": options.method,
        "score": options.score,
        "sign": options.sign,
        "layers": [
            {"name": spot.layer.name, "reason": spot.reason, "plane": list(spot.plane[:3])} for spot in at
        ],
        "targets": targets,
    }

    pictures = {}
    for number, part in shown(question, context).items():
        target = question.targets[number]
        drawn = {part: kept[0][number] if len(at) == 1 else heatmap[number]}
        if len(at) > 1:
            for spot, one in zip(at, kept, strict=True):
                drawn[".".join(filter(None, [part, file_safe(spot.layer.name)]))] = one[number]
        for name, heat in drawn.items():
            legend = f"{options.method} of the {question.noun}"
            pictures[name] = draw(question, target, heat, options, options.sign, legend)

    below = [spot.reason for spot in at]
    if options.check:

        def again(question: Question) -> Array:
            return np.stack(
                [fused([one.values for one in maps], question.size) for maps in explain(question)]
            )

        data["check"], verdicts = examine(question, again, context)
        below += verdicts
    text = described(question, [_remark(target) for target in targets], *below)
    return Result(pictures, arrays, data, text=text)


def _remark(target: dict[str, Any]) -> str:
    if len(target["empty"]) == 1:
        return f"nothing for it: {next(iter(target['empty'].values()))}"
    return told(target)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("grad-cam", run, GradCamOptions, takes="picture", needs="classifier")]
