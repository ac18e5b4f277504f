"""Class activation mapping: the last plane of a network, weighted as its dense layer weights it for a class.

Zhou et al. 2016: the map of class c is the sum over the channels k of w_kc · A_k, with A the values that are
averaged over the plane and w the weights of the one dense layer behind. Its mean plus the bias is the logit.
Where a network has no dense layer, the map is the class's own channel. One forward run, no gradient.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from cnnkit import Context, Image, Model, Operation, Option, Result, hookimpl, resize_map
from cnnkit.plugins.explaining import (
    Alpha,
    Array,
    Check,
    ColourMap,
    Plain,
    Question,
    Sign,
    Target,
    ask,
    described,
    draw,
    extremes,
    shown,
    told,
)
from cnnkit.plugins.heads import Head, head_of
from cnnkit.plugins.sanity import examine

ENOUGH = 1e-3
"""How far mean and bias may be from the logit, as a share of it or of 1."""


@dataclass(frozen=True)
class CamOptions:
    """Map where a network that ends in an average sees a class, by the weights of its dense layer.

    Exact and quick: the mean of the map, plus the class's bias, is the logit. Other networks are for
    grad-cam.
    """

    target: Target = "top"
    sign: Annotated[Sign, Option("signed: what lowers the logit is blue; positive: only what raises it")] = (
        "signed"
    )
    colourmap: ColourMap = None
    alpha: Alpha = 0.6
    plain: Plain = False
    check: Check = False


def maps(question: Question, context: Context) -> tuple[Array, Head]:
    """Those of the targets (targets, h, w), and the head they were read from."""
    head = head_of(question.model, question.size)
    features = context.session(question.model).run(question.tensor[None], [head.tensor])[head.tensor][0]
    return np.stack([head.map(features, target) for target in question.targets]), head


def cam(picture: Image, model: Model, options: CamOptions, context: Context) -> Result:
    """See `CamOptions`.

    Arrays: `classes` (targets,) int64; `map` (targets, h, w) float32, signed, at the resolution of the plane;
    `heatmap` (targets, height, width) float32, enlarged to the network's input, by the sign asked for.
    """
    question = ask(picture, model, options.target, "logits", context)
    raw, head = maps(question, context)
    kept = np.maximum(raw, 0) if options.sign == "positive" else raw
    heatmap = np.stack([resize_map(one, *question.size) for one in kept])

    targets = []
    for target, one in zip(question.targets, raw, strict=True):
        told = {"mean": float(one.mean(dtype=np.float64)), "bias": head.bias_of(target)}
        told["delta"] = told["mean"] + told["bias"] - float(question.scores[target])
        targets.append(question.said(target) | told | extremes(question, one))
    layer = next((layer.name for layer in model.parts if layer.tensor == head.tensor), head.tensor)
    through = "one dense layer" if head.weights is not None else "no dense layer: each class has its channel"
    reason = f"layer '{layer}': averaged over its plane, {head.plane}; {through}"
    data: dict[str, Any] = {
        "prediction": question.prediction,
        "sign": options.sign,
        "layers": [{"name": layer, "reason": reason, "plane": list(head.plane[:3])}],
        "targets": targets,
    }

    pictures = {
        part: draw(
            question, question.targets[number], kept[number], options, options.sign, "share in the logit"
        )
        for number, part in shown(question, context).items()
    }
    below = [reason]
    if options.check:
        best = max(targets, key=lambda target: target["score"])
        adds_up = {name: best[name] for name in ("mean", "bias", "delta")} | {
            "holds": abs(best["delta"]) <= ENOUGH * max(1, abs(best["score"])),
            "text": f"mean {best['mean']:.4g} and bias {best['bias']:.4g} for a logit of {best['score']:.4g}",
        }
        data["check"], verdicts = examine(question, lambda q: maps(q, context)[0], context, adds_up)
        below += verdicts
    arrays = {"classes": np.array(question.targets), "map": raw, "heatmap": heatmap}
    return Result(pictures, arrays, data, text=described(question, list(map(_remark, targets)), *below))


def _remark(target: dict[str, Any]) -> str:
    return f"mean {target['mean']:.3g} and bias {target['bias']:.3g}; {told(target)}"


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("cam", cam, CamOptions, takes="picture", needs="classifier")]
