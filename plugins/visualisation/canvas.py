"""The canvas: a network that is fed the numbers of a picture in place of the picture."""

from dataclasses import replace
from typing import Any

import numpy as np

from cnnkit import Builder, Model, Preprocessing
from cnnkit.plugins.explaining import per_model
from cnnkit.plugins.visualisation.parametrisation import Parametrisation
from cnnkit.plugins.visualisation.transforms import seen

PICTURE = "canvas/picture"
"""The tensor of the picture, (1, depth, height, width) from 0 to 1."""


@per_model
def canvas(model: Model, tensor: str, parametrisation: Parametrisation) -> Model:
    """The network up to a tensor, behind a picture that is made of numbers and seen in a view.

    Its input is the numbers. It is the same one each time while the network lives.
    """
    graph = model.graph.extract([tensor])
    opset = next(e.version for e in graph.skeleton.opset_import if e.domain in ("", "ai.onnx"))
    front = Builder("canvas", opset)
    numbers = front.input("canvas/numbers", parametrisation.shape)
    with front.scope("canvas/"):
        picture = front.op.Identity(parametrisation.picture(front.op, numbers), output=PICTURE)
        shown = to_network(front.op, seen(front, picture), model.preprocessing)
    front.output(front.op.Identity(front.op.cast(shown, graph.input.dtype), output=graph.input.name))
    made = front.model().graph
    whole = graph.rebuilt(
        [*made.node, *graph.skeleton.graph.node],
        [*made.initializer, *graph.skeleton.graph.initializer],
        [tensor],
    )
    del whole.skeleton.graph.input[:]
    whole.skeleton.graph.input.extend(made.input)
    unit = Preprocessing(channels="rgb" if parametrisation.depth == 3 else "grey")
    return replace(model, graph=whole, preprocessing=unit, labels=(), source=None)


def to_network(op: Any, picture: Any, preprocessing: Preprocessing) -> Any:
    """Appends nodes that make a network's input of a picture (1, depth, height, width), from 0 to 1."""
    if preprocessing.channels == "bgr":
        picture = op.Gather(picture, [2, 1, 0], axis=1)
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    scaled = op.Mul(picture, (255 * preprocessing.scale / std).astype(np.float32))
    moved = op.Sub(scaled, (mean / std).astype(np.float32))
    return moved if preprocessing.layout == "nchw" else op.Transpose(moved, perm=[0, 2, 3, 1])
