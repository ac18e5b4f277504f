"""A network's gradient as a network of its own: picture in, score and gradient out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from cnnkit.errors import UsageError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.model import Model
from cnnkit.graphs.targets import resolve_targets
from cnnkit.graphs.training import picture_shape, tensor_named


def gradient_model(
    model: Model,
    output: str,
    wrt: Sequence[str] = ("input",),
    size: tuple[int, int] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> onnx.ModelProto:
    """An ordinary ONNX model that computes a score of each picture and the gradients of these scores.

    `output` is `logits:281`, `probabilities:tabby`, `LAYER:7` (the sum over channel 7) or `LAYER` (the sum
    over all of the layer); `logits` and `probabilities` alone make the class an input `target` (batch) int64.
    `wrt` names the picture (`input`), layers, or weights. The outputs are `score` (batch) and `gradient`, or
    `gradient/NAME` for each when there are several; the gradient of a picture or layer is that of its own
    picture's score, the gradient of a weight that of the sum of the scores. `size` is as for a training
    graph.

    Raises UsageError for names that mean nothing and ModelError where there is no gradient.
    """
    picture = model.graph.input.name
    builder = Builder.extending(
        model.graph.skeleton, {picture: picture_shape(model, None, size)}, model.graph.files
    )
    starts = {name: tensor_named(builder, model, name) for name in wrt}
    score = _score(builder, model, output)
    found = gradients(builder, score, starts.values(), rules=rules)
    builder.output(builder.op.Identity(score, output="score"))
    for name, tensor in starts.items():
        title = "gradient" if len(starts) == 1 else f"gradient/{name}"
        gradient = found[tensor]
        builder.output(gradient if gradient == title else builder.op.Identity(gradient, output=title))
    whole = Graph(builder.model(model.metadata), model.graph.files).proto
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _score(builder: Builder, model: Model, text: str) -> Any:
    """The tensor (batch) that a text such as `logits:281` means."""
    op = builder.op
    name, colon, choice = text.partition(":")
    if name in ("logits", "probabilities"):
        scores = model.logits if name == "logits" else model.probabilities
        values = op.Flatten(builder.tensor(scores.tensor), axis=1)
        if scores.softmax:
            values = op.Softmax(values, axis=1)
        if not colon:
            target = builder.input("target", [values.shape[0] or "batch"], np.int64)
            return op.Squeeze(op.GatherElements(values, op.Unsqueeze(target, [1]), axis=1), [1])
        return op.Gather(values, np.array(_class_of(model, choice)), axis=1)
    values = builder.tensor(tensor_named(builder, model, name))
    if colon:
        channels = values.shape[1]
        if not choice.isdecimal() or (channels is not None and int(choice) >= channels):
            raise UsageError(f"'{choice}' is no channel of '{name}', which has {channels}")
        values = op.Gather(values, np.array(int(choice)), axis=1)
    return op.ReduceSum(op.Flatten(values, axis=1), [1], keepdims=0) if values.rank > 1 else values


def _class_of(model: Model, choice: str) -> int:
    if choice.split(":")[0].lower() in ("top", "all"):
        raise UsageError(f"the target '{choice}' depends on the picture; name one class, or leave it open")
    found = resolve_targets(choice, model.labels, np.zeros(model.classes))
    if len(found) > 1:
        raise UsageError(f"'{choice}' means {len(found)} classes; name one")
    return found[0]
