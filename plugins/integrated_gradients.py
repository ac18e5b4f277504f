"""Integrated gradients: what each pixel contributed on the way from a baseline to the picture.

Sundararajan, Taly and Yan 2017: (x - b) times the mean gradient on the straight line from b to x. The mean is
taken by Gauss-Legendre quadrature as in captum: exact where the gradient along the line is a polynomial of
degree up to 2 steps - 1. The contributions add up to f(x) - f(b); what is missing is the delta.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from cnnkit import Context, Image, Model, Operation, Option, Result, UsageError, hookimpl
from cnnkit.plugins.baselines import WORDS, Colour, baseline_input, parse_baseline
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
)
from cnnkit.plugins.sanity import examine
from cnnkit.plugins.slopes import Slopes

ENOUGH = 0.05
"""A delta that counts as none, as a share of the change of the score."""


@dataclass(frozen=True)
class IntegratedGradientsOptions:
    """Map what each pixel adds to the score of a class on the way from a baseline to the picture.

    The values add up to the difference of the scores of picture and baseline; the text says how nearly. What
    looks like the baseline gets nothing, so choose one that means "nothing to see here".
    """

    baseline: Annotated[
        str | Colour,
        Option(
            f"where the way begins: grey, black, white, mean (colour of the picture), blur, {WORDS}",
            parse=parse_baseline,
        ),
    ] = (127.5, 127.5, 127.5)
    baseline_picture: Annotated[
        Image | None, Option("a picture as the baseline, at the size of this one")
    ] = None
    steps: Annotated[int, Option("points on the way", min=1)] = 50
    multiply: Annotated[
        bool,
        Option("times the difference to the baseline; else only the mean gradient"),
    ] = True
    target: Target = "top"
    score: Score = "logits"
    sign: Annotated[
        Sign, Option("signed: zero is white, blue lowers the score; positive: only what raises it")
    ] = "signed"
    colourmap: ColourMap = None
    alpha: Alpha = 0.75
    smooth: Smooth = None
    plain: Plain = False
    check: Check = False


def quadrature(steps: int) -> tuple[Any, Any]:
    """The points in 0..1 and the weights, which add up to 1, of the Gauss-Legendre rule."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (1 + points) / 2, weights / 2


def attributions(
    question: Question, baseline: Array, options: IntegratedGradientsOptions, context: Context
) -> Array:
    """Of each target (targets, *input), in the layout of the network."""
    points, weights = quadrature(options.steps)
    slopes = Slopes(question, context)
    way = question.tensor - baseline
    pairs = ((baseline + np.float32(point) * way, target) for target in question.targets for point in points)
    count = len(question.targets) * options.steps
    found = context.progress(slopes.map(pairs), count, f"{question.picture.name}: steps")
    result = np.zeros((len(question.targets), *way.shape), np.float32)
    for one in result:
        mean = np.zeros(way.shape)
        for weight in weights:
            mean += weight * next(found).gradients["input"]
        one[...] = way * mean if options.multiply else mean
    return result


def _baseline(question: Question, options: IntegratedGradientsOptions) -> Array:
    if options.baseline_picture is None:
        size = min(question.size) / 14  # what occlusion blurs by default
        return baseline_input(question.picture, question.seen, question.model, options.baseline, (size, size))
    other = options.baseline_picture.flattened().resized(*question.picture.size, "bilinear")
    baseline: Array = question.model.preprocessing.apply(other).tensor[0]
    return baseline


def integrated_gradients(
    picture: Image, model: Model, options: IntegratedGradientsOptions, context: Context
) -> Result:
    """See `IntegratedGradientsOptions`.

    Arrays: `classes` (targets,) int64; `attributions` (targets, *input) float32, in the layout of the
    network; `heatmap` (targets, height, width) float32, the sum of their channels.
    """
    if options.check and not options.multiply:
        raise UsageError("--check tests that the values add up, which they do only with --multiply")
    question = ask(picture, model, options.target, options.score, context)
    baseline = _baseline(question, options)
    start = question.watched.of(context.session(model).run(baseline[None], [question.watched.tensor]))[0]

    found = attributions(question, baseline, options, context)
    heatmap = found.sum(question.channel_axis + 1)
    targets = []
    for target, values, heat in zip(question.targets, found, heatmap, strict=True):
        rise = float(question.scores[target]) - float(start[target])
        total = float(values.sum(dtype=np.float64))
        told = {"baseline": float(start[target]), "rise": rise, "sum": total, "delta": total - rise}
        targets.append(question.said(target) | told | extremes(question, heat))
    data: dict[str, Any] = {
        "prediction": question.prediction,
        "score": options.score,
        "baseline": "picture" if options.baseline_picture else options.baseline,
        "steps": options.steps,
        "multiply": options.multiply,
        "targets": targets,
    }

    legend = f"contribution to the {question.noun}"
    pictures = {}
    for number, part in shown(question, context).items():
        heat, high = fine(question, heatmap[number], options.smooth)
        pictures[part] = draw(question, question.targets[number], heat, options, options.sign, legend, high)
    below: list[str] = []
    if options.check:
        best = max(targets, key=lambda target: target["score"])
        adds_up = {name: best[name] for name in ("sum", "rise", "delta")} | {
            "holds": abs(best["delta"]) <= ENOUGH * abs(best["rise"]),
            "text": f"{best['sum']:.4g} for a rise of {best['rise']:.4g}, delta {best['delta']:.2g}",
        }
        data["check"], below = examine(
            question,
            lambda question: attributions(question, baseline, options, context).sum(
                question.channel_axis + 1
            ),
            context,
            adds_up,
        )
    text = described(question, [_remark(target, options) for target in targets], *below)
    arrays = {"classes": np.array(question.targets), "attributions": found, "heatmap": heatmap}
    return Result(pictures, arrays, data, text=text)


def _remark(target: dict[str, Any], options: IntegratedGradientsOptions) -> str:
    rise = f"{target['baseline']:.3g} on the baseline"
    if not options.multiply:
        return rise
    few = abs(target["delta"]) > ENOUGH * abs(target["rise"])
    hint = f"; {options.steps} steps are too few" if few else ""
    return f"{rise}; the pixels add up to {target['sum']:.4g} (delta {target['delta']:.2g}{hint})"


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [
        Operation(
            "integrated-gradients",
            integrated_gradients,
            IntegratedGradientsOptions,
            takes="picture",
            needs="classifier",
        )
    ]
