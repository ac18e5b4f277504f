"""Several explanations of one picture on one sheet."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import numpy as np

from cnnkit import (
    CnnkitError,
    Context,
    Image,
    Model,
    Operation,
    Option,
    Result,
    drawing,
    hookimpl,
    resize_map,
)
from cnnkit.plugins.explaining import Array, Target, ask, short
from cnnkit.plugins.sanity import spearman


def parse_methods(value: Any) -> tuple[str, ...]:
    """Operations with commas, each possibly with a method: grad-cam, saliency:smoothgrad."""
    texts = [value] if isinstance(value, str) else value
    methods = tuple(word.strip() for text in texts for word in str(text).split(","))
    if not methods or not all(methods):
        raise ValueError("methods are operations with commas, such as grad-cam,saliency:smoothgrad")
    return methods


@dataclass(frozen=True)
class CompareOptions:
    """Draw several explanations of one picture side by side, and say how alike they are.

    A method that does not suit the network leaves its place empty and says why.
    """

    methods: Annotated[
        tuple[str, ...],
        Option(
            "operations with commas, each possibly with its method, such as grad-cam:layercam",
            parse=parse_methods,
            metavar="OPERATION[:METHOD],...",
        ),
    ] = ("grad-cam", "occlusion", "integrated-gradients", "saliency", "saliency:smoothgrad")
    target: Target = "top"
    columns: Annotated[int | None, Option("tiles in a row (default: nearly square)", min=1)] = None
    width: Annotated[int, Option("of the sheet in pixels, about", min=200)] = 1200


def compare(picture: Image, model: Model, options: CompareOptions, context: Context) -> Result:
    """See `CompareOptions`.

    Arrays: `classes` (targets,) int64; `OPERATION.METHOD` (targets, height, width) float32, the heat map of
    each method over the network's input.
    """
    question = ask(picture, model, options.target, "logits", context)
    pictures: dict[str, Image] = {}
    found: dict[str, list[Array]] = {}
    failures: dict[str, str] = {}
    tiles: list[tuple[str, Image]] = []
    for target in question.targets:
        tiles.append((f"{short(question.label(target))}: logit {question.scores[target]:.3g}", picture))
        for method in options.methods:
            try:
                result = _explain(method, picture, target, context, model)
            except CnnkitError as error:
                failures[method] = str(error)
                tiles.append((f"{method}: does not suit this network", _empty(picture)))
                continue
            tiles.append((method, result.picture))
            if "heatmap" in result.arrays:
                heat = result.arrays["heatmap"][0]
                found.setdefault(method, []).append(resize_map(heat, *question.size))
    several = len(question.targets) > 1
    columns = options.columns or (len(options.methods) + 1 if several else math.ceil(math.sqrt(len(tiles))))
    title = f"{picture.name}: {short(question.prediction['label'])} {question.prediction['probability']:.2f}"
    pictures[""] = drawing.contact_sheet(tiles, columns, options.width, title)

    alike = {
        f"{first} / {second}": float(
            np.mean([spearman(*pair) for pair in zip(found[first], found[second], strict=True)])
        )
        for first, second in combinations(found, 2)
    }
    data = {
        "prediction": question.prediction,
        "targets": [question.said(target) for target in question.targets],
        "methods": list(options.methods),
        "correlations": alike,
        "failures": failures,
    }
    lines = [title]
    for words, choose in (("most alike", max), ("least alike", min)):
        if alike:
            pair = choose(alike, key=lambda name: alike[name])
            lines.append(f"  {words}: {pair}, correlation {alike[pair]:.2f}")
    lines += [f"  {method}: {reason}" for method, reason in failures.items()]
    arrays = {"classes": np.array(question.targets)}
    arrays |= {method.replace(":", "."): np.stack(maps) for method, maps in found.items()}
    return Result(pictures, arrays, data, text="\n".join(lines))


def _explain(method: str, picture: Image, target: int, context: Context, model: Model) -> Result:
    operation, _, way = method.partition(":")
    more = {"method": way} if way else {}
    return context.run(operation, picture, model, target=str(target), plain=True, **more)


def _empty(picture: Image) -> Image:
    return Image.load(np.full((*picture.size, 3), 236, np.uint8))


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("compare", compare, CompareOptions, takes="picture", needs="classifier")]
