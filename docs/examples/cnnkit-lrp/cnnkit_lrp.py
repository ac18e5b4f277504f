"""Layer-wise relevance propagation, from Bach et al. 2015 and, with gamma, Montavon et al. 2019.

The score of a class is shared out backwards, layer by layer, in proportion to what each input contributed:

    R_j = sum over k of  x_j·w'_jk / z'_k · R_k,      z'_k = b'_k + sum over j of  x_j·w'_jk,

where w' is w + gamma·max(w, 0), and b' alike. Nothing is lost on the way but what the biases take. Divide by
what is shared, c = R / x, and the line becomes

    c_j = sum over k of  w'_jk · (c_k·y_k / z'_k)

the gradient of a convolution whose kernel is w', of c_k·y_k / z'_k; and those of Relu, pooling and dense
layers share out as they are. So all of LRP is one gradient rule, and at the end the relevance is c·x.

The end is the first Relu: from there on no number is negative, which is what the shares need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import numpy as np

from cnnkit import (
    RULES,
    Builder,
    Context,
    Image,
    Model,
    ModelError,
    Operation,
    Option,
    Result,
    drawing,
    hookimpl,
    label_of,
    planes,
    resolve_targets,
)

SEEN = 99.5
"""Per cent of the places that the colours tell apart; the others stick out far."""


@dataclass(frozen=True)
class LrpOptions:
    """Share the score of a class out over the picture, layer by layer (relevance propagation).

    Red is what raises the score, blue what lowers it.
    """

    target: Annotated[str, Option("class: top, index or label", parse=str, completes="labels")] = "top"
    gamma: Annotated[float, Option("by how much what raises a score counts more", min=0)] = 0.25
    alpha: Annotated[float, Option("opacity of the map on the picture", min=0, max=1)] = 0.75


@cache
def sharing(gamma: float) -> Callable[..., Any]:
    """The gradient rule of a convolution that shares relevance out."""

    def conv(op: Any, node: Any, dy: Any, x: Any, kernel: Any, bias: Any = None) -> Any:
        def raised(weight: Any) -> Any:
            return op.Add(weight, op.Mul(op.Relu(weight), gamma))

        weights = [raised(weight) for weight in (kernel, bias) if weight is not None]
        z = op.Conv(x, *weights, **node.attributes)
        shares = op.Div(op.Mul(dy, op.Relu(node.output)), op.Where(op.Greater(z, 0.0), z, 1.0))
        return RULES["Conv"](op, node, shares, x, *weights)

    return conv


@dataclass(frozen=True)
class Score:
    """The loss that is shared out: the sum of the scores of the class that is fed as `target`."""

    tensor: str

    def __call__(self, builder: Builder, tap: Callable[[str], Any]) -> dict[str, Any]:
        scores = builder.op.Flatten(tap(self.tensor), axis=1)
        target = builder.input("target", [1], np.int64)
        return {"score": builder.op.ReduceSum(builder.op.Gather(scores, target, axis=1), keepdims=0)}


def lrp(picture: Image, model: Model, options: LrpOptions, context: Context) -> Result:
    """See `LrpOptions`.

    Arrays: `relevance` (height, width) float32 of the first Relu, summed over its channels.
    """
    first, prepared = first_relu(model), model.preprocessing.apply(picture)
    scores = model.logits.of(context.session(model).run(prepared.tensor, [model.logits.tensor]))[0]
    (target, *_) = resolve_targets(options.target, model.labels, scores)

    size = prepared.picture.size
    rules = {"Conv": sharing(options.gamma)}
    loss = Score(model.logits.tensor)
    session = context.training(model, loss, [first], taps=[first], rules=rules, size=size)
    batch = np.repeat(prepared.tensor, model.graph.batch or 1, axis=0)
    found = session.gradient({"input": batch, "target": np.array([target])})
    channels = planes(model.graph, *size)[first].axis - 1
    relevance = (found.gradients[first] * found.taps[first])[0].sum(axis=channels)

    label, score = label_of(target, model.labels), float(scores[target])
    heat = prepared.geometry.to_picture(relevance, outside=np.nan)
    caption = f"{label}: logit {drawing.compact(score)}"
    most = float(np.percentile(np.abs(relevance), SEEN)) or None
    figure = drawing.heat_figure(picture, heat, caption, "relevance", "blue-red", options.alpha, high=most)
    shared = float(relevance.sum())
    summary = f"{shared:.3g} of its logit {score:.3g} shared out, the biases have the rest"
    return Result(
        pictures={"": figure},
        arrays={"relevance": relevance},
        data={"class": target, "label": label, "score": score, "shared": shared},
        text=f"{picture.name}  {label}: {summary}",
    )


def first_relu(model: Model) -> str:
    """Its tensor. Raises ModelError for a network whose convolutions do not all end in a Relu."""
    relus = [part for part in model.parts if part.operator == "Relu"]
    ends = {name for relu in relus for name in model.graph.producers[relu.tensor].input}
    open_ends = [part.name for part in model.parts if part.operator == "Conv" and part.tensor not in ends]
    if open_ends or not relus:
        found = f"'{open_ends[0]}' does not" if open_ends else "it has no Relu"
        raise ModelError(
            "lrp takes networks whose convolutions each end in a Relu, such as VGG; "
            f"of '{model.name}' {found}."
        )
    return relus[0].tensor


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("lrp", lrp, LrpOptions, takes="picture", needs="classifier")]
