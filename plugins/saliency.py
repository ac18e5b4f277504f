"""Saliency: the gradient of a class's score with respect to the picture, and what is made of it.

With x the network's input and g(x) the gradient of the score:

- gradient: g(x) (Simonyan et al. 2013);
- input-x-gradient: x · g(x) (Shrikumar et al. 2016), in the network's own numbers;
- smoothgrad: the mean of g over noisy copies of x (Smilkov et al. 2017);
- vargrad: the variance of g over noisy copies of x (Adebayo et al. 2018);
- guided: g with only what is positive passed back through each Relu (Springenberg et al. 2014).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from cnnkit import RULES, Context, Image, Model, ModelError, Operation, Option, Result, hookimpl
from cnnkit.plugins.explaining import (
    Alpha,
    Array,
    Check,
    ColourMap,
    Plain,
    Question,
    Score,
    Sign,
    Smooth,
    Target,
    ask,
    described,
    draw,
    extremes,
    fine,
    shown,
    told,
)
from cnnkit.plugins.sanity import examine
from cnnkit.plugins.slopes import Slopes

Method = Literal["gradient", "input-x-gradient", "smoothgrad", "vargrad", "guided"]
Reduction = Literal["max", "mean", "norm", "sum"]

REDUCTIONS: dict[str, Callable[[Array, int], Any]] = {
    "max": lambda values, axis: np.abs(values).max(axis),
    "mean": lambda values, axis: np.abs(values).mean(axis),
    "norm": lambda values, axis: np.sqrt((values**2).sum(axis)),
    "sum": lambda values, axis: values.sum(axis),
}
"""From the channels of a pixel to one number."""

WARNING = (
    "guided maps hardly depend on the class (Adebayo et al. 2018): they show edges, not reasons; "
    "grad-cam tells classes apart"
)


@dataclass(frozen=True)
class SaliencyOptions:
    """Map how strongly each pixel moves the score of a class: the gradient with respect to the picture."""

    method: Annotated[
        Method, Option("what is made of the gradient; guided is beautiful but hardly depends on the class")
    ] = "gradient"
    reduce: Annotated[
        Reduction | None,
        Option(
            "the channels of a pixel become their max, mean (of magnitudes), norm or signed sum "
            "(default: sum for input-x-gradient, else max as in the paper)"
        ),
    ] = None
    samples: Annotated[int, Option("noisy copies, for smoothgrad and vargrad", min=1)] = 25
    noise: Annotated[
        float, Option("their standard deviation, as a share of the input's max - min", min=0)
    ] = 0.15
    deviation: Annotated[
        float | None,
        Option("their standard deviation in the network's own numbers (in place of --noise)", min=0),
    ] = None
    target: Target = "top"
    score: Score = "logits"
    sign: Annotated[
        Sign, Option("of summed channels; signed: zero is white, blue lowers the score; positive: only red")
    ] = "signed"
    colourmap: ColourMap = None
    alpha: Alpha = 0.75
    smooth: Smooth = None
    plain: Plain = False
    check: Check = False


def _guided(operator: str) -> Callable[..., Any]:
    """The operator's ordinary rule, told only of what raises the score."""

    def rule(op: Any, node: Any, dy: Any, *inputs: Any) -> Any:
        return RULES[operator](op, node, op.Relu(dy), *inputs)

    return rule


GUIDED = {operator: _guided(operator) for operator in ("Relu", "Clip")}
"""A Clip is the ReLU6 of MobileNets."""


def gradients(question: Question, options: SaliencyOptions, context: Context) -> Array:
    """The attributions (targets, *input) of a question's targets, in the layout of the network."""
    rules = None
    if options.method == "guided":
        rules = GUIDED
        if not any(layer.operator in GUIDED for layer in question.model.parts):
            raise ModelError(
                f"guided backpropagation changes the gradient of Relu, and '{question.model.name}' has none: "
                "take --method gradient"
            )
    slopes = Slopes(question, context, rules=rules)
    if options.method in ("smoothgrad", "vargrad"):
        seed = int(context.random.integers(2**63))  # the same noise for every class
        return np.stack(
            [_over_noise(slopes, question, target, options, context, seed) for target in question.targets]
        )
    pairs = ((question.tensor, target) for target in question.targets)
    found = np.stack([slope.gradients["input"] for slope in slopes.map(pairs)])
    return np.asarray(found * question.tensor) if options.method == "input-x-gradient" else found


def _over_noise(
    slopes: Slopes, question: Question, target: int, options: SaliencyOptions, context: Context, seed: int
) -> Array:
    pairs = ((copy, target) for copy in noisy(question.tensor, options, seed))
    label = f"{question.picture.name}: noisy copies"
    total, squares = np.zeros((2, *question.tensor.shape))
    for slope in context.progress(slopes.map(pairs), options.samples, label):
        total += slope.gradients["input"]
        squares += slope.gradients["input"].astype(np.float64) ** 2
    mean = total / options.samples
    found = mean if options.method == "smoothgrad" else np.maximum(squares / options.samples - mean**2, 0)
    return np.asarray(found, np.float32)


def noisy(tensor: Array, options: SaliencyOptions, seed: int) -> Iterator[Array]:
    """The noisy copies of an input."""
    random = np.random.default_rng(seed)
    deviation = options.noise * np.ptp(tensor) if options.deviation is None else options.deviation
    for _ in range(options.samples):
        yield tensor + np.float32(deviation) * random.standard_normal(tensor.shape, np.float32)


def saliency(picture: Image, model: Model, options: SaliencyOptions, context: Context) -> Result:
    """See `SaliencyOptions`.

    Arrays: `classes` (targets,) int64; `attributions` (targets, *input) float32, in the layout of the
    network; `heatmap` (targets, height, width) float32, their channels reduced to one.
    """
    question = ask(picture, model, options.target, options.score, context)
    reduction = options.reduce or ("sum" if options.method == "input-x-gradient" else "max")

    def reduced(attributions: Array) -> Array:
        return np.asarray(REDUCTIONS[reduction](attributions, question.channel_axis + 1), np.float32)

    attributions = gradients(question, options, context)
    heatmap = reduced(attributions)
    targets = [
        question.said(target) | extremes(question, heat)
        for target, heat in zip(question.targets, heatmap, strict=True)
    ]
    data: dict[str, Any] = {
        "prediction": question.prediction,
        "method": options.method,
        "score": options.score,
        "reduce": reduction,
        "targets": targets,
    }
    below = []
    if options.method == "guided":
        data["warning"] = WARNING
        below.append(f"note: {WARNING}")

    sign = options.sign if reduction == "sum" else "positive"
    legend = f"{options.method} of the {question.noun}"
    pictures = {}
    for number, part in shown(question, context).items():
        heat, high = fine(question, heatmap[number], options.smooth)
        pictures[part] = draw(question, question.targets[number], heat, options, sign, legend, high)
    if options.check:
        data["check"], verdicts = examine(
            question, lambda question: reduced(gradients(question, options, context)), context
        )
        below += verdicts
    text = described(question, [told(target) for target in targets], *below)
    arrays = {"classes": np.array(question.targets), "attributions": attributions, "heatmap": heatmap}
    return Result(pictures, arrays, data, text=text)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("saliency", saliency, SaliencyOptions, takes="picture", needs="classifier")]
