"""A network's gradient as a network of its own: picture in, score and gradient out."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from cnnkit.errors import ModelError, UsageError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder, needed_nodes
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import read_by
from cnnkit.graphs.model import Model
from cnnkit.graphs.planes import CHANNELS_FIRST, planes
from cnnkit.graphs.targets import resolve_targets
from cnnkit.graphs.tensors import Tensor
from cnnkit.graphs.training import picture_shape, tensor_named

_MOVES_AXES = {"Transpose", "Reshape", "Flatten", "MatMul", "Gemm", "Einsum"}


def gradient_model(
    model: Model,
    output: str,
    wrt: Sequence[str] = ("input",),
    size: tuple[int, int] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> onnx.ModelProto:
    """An ordinary ONNX model that computes a score of each picture and the gradients of these scores.

    `output` is `logits:281`, `probabilities:tabby`, `LAYER:7` (the sum over channel 7) or `LAYER` (the sum
    over all of the layer, whose first axis must be the batch); `logits` and `probabilities` alone make the
    class an input `target` (batch) int64. `wrt` names the picture (`input`), layers, or weights. The outputs
    are `score` (batch) and `gradient`, or `gradient/NAME` for each when there are several; what the network
    computes under one of these names gets another. The gradient of a picture or layer is that of its own
    picture's score, the gradient of a weight that of the sum of the scores. `size` is as for a training
    graph.

    Raises UsageError for names that mean nothing or have nothing to do with each other, and ModelError where
    there is no gradient, and for a picture or weight that is called like an input or output of the result.
    """
    picture = model.graph.input.name
    builder = Builder.extending(
        model.graph.skeleton, {picture: picture_shape(model, None, size)}, model.graph.files
    )
    starts = {name: builder.tensor(tensor_named(builder, model, name)) for name in wrt}
    score: Tensor = builder.op.Identity(_score(builder, model, output), name="score")
    found = _gradients(builder, output, score, starts, rules)
    titles = {score: "score", **{name: "target" for name in builder.inputs if name != picture}}
    for name, tensor in starts.items():
        gradient = found[tensor]
        if gradient in titles:  # asked for by two names
            gradient = builder.op.Identity(gradient, name=f"gradient/{name}")
        titles[gradient] = "gradient" if len(starts) == 1 else f"gradient/{name}"
    for named in titles:
        if named not in builder.inputs:
            builder.output(named)
    whole = Graph(builder.model(model.metadata), model.graph.files).proto
    _rename(whole.graph, titles)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _score(builder: Builder, model: Model, text: str) -> Any:
    """The tensor (batch) that a text such as `logits:281` means."""
    name, colon, choice = text.partition(":")
    if name in ("logits", "probabilities"):
        return _score_of_class(builder, model, name, choice if colon else None)
    names = {name for part in model.parts for name in (part.name, part.tensor)}
    name, colon, choice = text, "", ""
    if ":" in text and text not in names.union(builder.inputs, builder.weights):  # tf2onnx writes `m/Relu:0`
        name, colon, choice = text.rpartition(":")
    values = builder.tensor(tensor_named(builder, model, name))
    if values in builder.weights:
        raise UsageError(f"'{name}' is a weight, the same for every picture; a score is of a layer")
    picture = builder.tensor(model.graph.input.name)
    if not values.rank or _batches(values) != _batches(picture):
        raise UsageError(
            f"'{name}' gives no score of each picture: the first axis of its shape {_written(values)} is not "
            "the batch; name another layer"
        )
    if colon:
        axis = _channel_axis(builder, model, name, values)
        count = values.shape[axis] or 0
        if not choice.isdecimal() or int(choice) >= count:
            raise UsageError(f"there is no channel '{choice}': '{name}' has {count}, from 0 to {count - 1}")
        values = builder.op.Gather(values, np.array(int(choice)), axis=axis)
    if values.rank == 1:
        return values
    return builder.op.ReduceSum(builder.op.Flatten(values, axis=1), [1], keepdims=0)


def _score_of_class(builder: Builder, model: Model, name: str, choice: str | None) -> Any:
    """The logit or probability of a class; the class is an input where nobody chose one."""
    op = builder.op
    scores = model.logits if name == "logits" else model.probabilities
    values = op.Flatten(builder.tensor(scores.tensor), axis=1)
    if scores.softmax:
        values = op.Softmax(values, axis=1)
    if choice is not None:
        return op.Gather(values, np.array(_class_of(model, choice)), axis=1)
    made = {tensor for node in builder.nodes for tensor in node.output}
    target = builder.input(
        _free("target", made.union(builder.inputs, builder.weights)), [values.shape[0] or "batch"], np.int64
    )
    return op.Squeeze(op.GatherElements(values, op.Unsqueeze(target, [1]), axis=1), [1])


def _class_of(model: Model, choice: str) -> int:
    if any(part.split(":")[0].strip().lower() in ("top", "all") for part in choice.split(",")):
        raise UsageError(f"the target '{choice}' depends on the picture; name one class, or leave it open")
    if not choice.strip() or re.fullmatch(r"[+-]\d+", choice):
        raise UsageError(
            f"there is no class {choice.strip() or repr('')}: the network has {model.classes}, "
            f"from 0 to {model.classes - 1}"
        )
    found = resolve_targets(choice, model.labels, np.zeros(model.classes))
    if len(found) > 1:
        raise UsageError(f"'{choice}' means {len(found)} classes; name one")
    return found[0]


def _channel_axis(builder: Builder, model: Model, name: str, values: Tensor) -> int:
    """The axis of a layer's channels. Raises UsageError where it cannot be known."""
    if values.rank == 2:
        return 1
    graph = model.graph
    shape = builder.tensor(graph.input.name).shape
    height, width = shape[2:] if graph.layout == "nchw" else shape[1:3]
    if plane := planes(graph, height, width).get(values):
        return plane.axis
    tensor: str = values
    while node := graph.producers.get(tensor):  # behind a Reshape there may be convolutions again
        if node.op_type in CHANNELS_FIRST:
            return 1
        alike = [t for t in node.input if t in graph.producers and builder.tensor(t).rank == values.rank]
        if node.op_type in _MOVES_AXES or not alike:
            break
        tensor = alike[0]
    raise UsageError(
        f"it cannot be known which axis of '{name}', whose shape is {_written(values)}, holds channels; "
        f"'{name}' alone means the sum over all of it"
    )


def _gradients(
    builder: Builder,
    output: str,
    score: Tensor,
    starts: Mapping[str, Tensor],
    rules: Mapping[str, Rule] | None,
) -> Mapping[str, Tensor]:
    """The gradients of the score, or a sentence in the words of the one who asked for them."""
    read = {tensor for node in needed_nodes(builder.nodes, [score]) for tensor in read_by(node)}
    sentence = f"the score '{output}' does not depend on '%s' in a way that has a gradient"
    for name, tensor in starts.items():
        if tensor not in read:
            raise UsageError(sentence % name)
    try:
        return gradients(builder, score, starts.values(), rules=rules)
    except ModelError as error:
        for name, tensor in starts.items():
            if str(error).startswith(f"'{score}' does not depend on '{tensor}'"):
                raise ModelError(sentence % name) from None
        raise


def _rename(graph: onnx.GraphProto, titles: Mapping[str, str]) -> None:
    """Give tensors the names that the reader of the file expects; what else has one of them gets another."""
    given = {value.name for value in [*graph.input, *graph.initializer]}
    nodes = list(_nodes(graph))
    made = {tensor for node in nodes for tensor in node.output}
    others = set(titles.values()) - titles.keys()
    for name in sorted(others & given):
        raise ModelError(
            f"the network has an input or a weight '{name}', and the file's own '{name}' needs the name; "
            "rename that of the network"
        )
    names = {
        **{name: _free(f"{name}/network", made | given) for name in sorted(others & made)},
        **titles,
    }
    for node in nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for inner in (inner for node in nodes for inner in _inner_graphs(node)):
        for value in [*inner.input, *inner.output, *inner.initializer]:
            value.name = names.get(value.name, value.name)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from _nodes(inner)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _batches(tensor: Tensor) -> list[int | None]:
    """The first size of a tensor for each of the batches that the graph is looked at for."""
    return [(fact.shape or (None,))[0] for fact in tensor.facts]


def _written(tensor: Tensor) -> str:
    return f"({', '.join('batch' if size is None else str(size) for size in tensor.shape)})"
