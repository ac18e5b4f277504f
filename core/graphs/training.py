"""`TrainingGraph`: a network, a loss, its gradients and the update of the parameters in one ONNX graph."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cnnkit.errors import UsageError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder, Size
from cnnkit.graphs.model import Model
from cnnkit.graphs.optimizers import Optimizer
from cnnkit.graphs.tensors import Tensor
from cnnkit.graphs.training_mode import TrainingMode, in_training_mode

Loss = Callable[[Builder, Callable[[str], Tensor]], Mapping[str, Tensor]]
"""A loss is a function of the builder and of `tap`, which gives the tensor of a layer. It returns its parts,
scalars with a name each; their sum is what is differentiated. It declares what else it reads (targets,
weights) with `builder.input`."""


@dataclass(frozen=True)
class TrainingGraph:
    """What `training_graph` makes.

    `losses` are the parts and their sum, `total`; `gradients` belong to the tensors that were asked about;
    `taps` are layers whose values are wanted too.
    `parameters` maps those of them that are state to the name they have there.
    `state` holds the first values of all that lives from step to step: parameters, what the optimizer
    remembers, running statistics; these are inputs of the graph. `statistics` maps the running statistics to
    their next values, and `updates` the rest; it is empty without an optimizer. `settings` are inputs with a
    usual value (the learning rate). `masks` maps the input of a dropout to what it is applied to and to the
    ratio that is dropped.
    """

    builder: Builder
    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    taps: Mapping[str, Tensor]
    state: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, str]
    statistics: Mapping[str, Tensor]
    updates: Mapping[str, Tensor]
    settings: Mapping[str, float]
    masks: Mapping[str, tuple[Tensor, float]]

    def model(self, *groups: Mapping[str, Tensor], given: Collection[str] = ()) -> onnx.ModelProto:
        """The graph with these of its tensors as outputs, and those in `given` as inputs."""
        return self.builder.model(only=[t for group in groups for t in group.values()], given=given)


def training_graph(
    model: Model,
    loss: Loss,
    wrt: Sequence[str],
    optimizer: Optimizer | None = None,
    *,
    taps: Sequence[str] = (),
    training: bool = False,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> TrainingGraph:
    """Append a loss, its gradients and an update to a network.

    `wrt` names the picture (`input`), layers, or weights. Weights become state, and with an optimizer the
    picture does too. `training` puts batch norms and dropouts in training mode. `batch` is a fixed number of
    pictures, by default open, and 1 for a picture that is state; `size` is (height, width), by default the
    model's.

    Raises ModelError where a gradient does not exist, and UsageError for a picture without a size.
    """
    picture = model.graph.input.name
    if optimizer and {"input", picture}.intersection(wrt):
        batch = batch or 1
    sizes = {picture: picture_shape(model, batch, size)}
    mode = TrainingMode(model.graph.skeleton)
    if training:
        mode = in_training_mode(model.graph.skeleton, sizes)
    builder = Builder.extending(mode.model, sizes, model.graph.files)
    starts = _starts(builder, model, wrt)
    weights = [tensor for tensor in starts.values() if tensor in builder.weights]
    state = {name: builder.promote(name) for name in [*weights, *mode.statistics]}
    if optimizer and picture in starts.values():
        state[picture] = np.zeros(builder.tensor(picture).shape_for(batch or 1), model.graph.input.dtype)
    parameters = {name: tensor for name, tensor in starts.items() if tensor in state}
    if optimizer and (inner := [name for name, tensor in starts.items() if tensor not in state]):
        raise UsageError(f"the layer '{inner[0]}' is computed by the network, so no optimizer can change it")

    parts = loss(builder, lambda name: builder.tensor(tensor_named(builder, model, name)))
    losses = {name: builder.op.Identity(part, output=f"loss/{name}") for name, part in parts.items()}
    losses["total"] = builder.op.Sum(*losses.values(), output="loss/total")
    found = gradients(builder, losses["total"], starts.values(), rules=rules)
    updates: dict[str, Tensor] = {}
    if optimizer:
        moved = {tensor: found[tensor] for tensor in parameters.values()}
        updates, remembered = _append_updates(builder, optimizer, moved, state)
        state |= remembered
    graph = TrainingGraph(
        builder,
        losses,
        {name: found[tensor] for name, tensor in starts.items()},
        {name: builder.tensor(tensor_named(builder, model, name)) for name in taps},
        state,
        parameters,
        {held: builder.tensor(after) for held, after in mode.statistics.items()},
        updates,
        dict(optimizer.settings) if optimizer else {},
        mode.masks,
    )
    for group in (losses, graph.gradients, graph.taps, graph.statistics, updates):
        for tensor in group.values():
            builder.output(tensor)
    return graph


def _append_updates(
    builder: Builder, optimizer: Optimizer, moved: Mapping[str, Tensor], values: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Tensor], dict[str, NDArray[Any]]]:
    """Append a step for each parameter, given its gradient and first value.

    Returns the next values of all that changes, and the first ones of what the optimizer remembers.
    """
    settings = {name: builder.input(name, ()) for name in optimizer.settings}
    updates: dict[str, Tensor] = {}
    remembered: dict[str, NDArray[Any]] = {}
    for name, gradient in moved.items():
        firsts = optimizer.slots(values[name])
        slots = {
            slot: builder.input(f"{name}/{slot}", first.shape, first.dtype) for slot, first in firsts.items()
        }
        with builder.scope(f"update/{name}"):
            after, kept = optimizer.update(builder.op, builder.tensor(name), gradient, slots, settings)
        updates[name] = builder.op.Identity(after, output=f"{name}/next")
        for slot, first in firsts.items():
            remembered[slots[slot]] = first
            updates[slots[slot]] = builder.op.Identity(kept[slot], output=f"{slots[slot]}/next")
    return updates, remembered


def picture_shape(model: Model, batch: int | None, size: tuple[int, int] | None) -> list[Size]:
    """The shape of a network's input for gradients: only the batch may stay open. Raises UsageError."""
    height, width = size or (model.preprocessing.height, model.preprocessing.width)
    height, width = (fixed or asked for fixed, asked in zip(model.graph.size, (height, width), strict=True))
    if height is None or width is None:
        raise UsageError(
            f"the network '{model.name}' takes pictures of any size, but gradients need one: give it"
        )
    shape: list[Size] = [model.graph.batch or batch or "batch", height, width]
    shape.insert(1 if model.graph.layout == "nchw" else 3, model.graph.channels)
    return shape


def _starts(builder: Builder, model: Model, wrt: Sequence[str]) -> dict[str, str]:
    """What is asked about, by the name under which it was; a pattern with `*` stands for several weights."""
    trained = [name for name in builder.weights if builder.tensor(name).is_floating]
    starts: dict[str, str] = {}
    for name in wrt:
        matching = fnmatch.filter(trained, name) if name not in trained else [name]
        starts |= {weight: weight for weight in matching} or {name: tensor_named(builder, model, name)}
    return starts


def tensor_named(builder: Builder, model: Model, name: str) -> str:
    """The tensor that `input`, a weight, a layer, or a tensor's own name means. Raises UsageError."""
    if name == "input":
        return model.graph.input.name
    if name in builder.weights or name in builder.inputs:
        return name
    layers = model.find([name])
    if len(layers) > 1:
        raise UsageError(f"'{name}' means {len(layers)} layers; name one")
    return layers[0].tensor
