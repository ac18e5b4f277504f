"""`TrainingGraph`: a network, a loss, its gradients and the update of the parameters in one ONNX graph."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cnnkit.errors import UsageError, did_you_mean
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder, Size, needed_nodes
from cnnkit.graphs.measure import peak
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

    @cached_property
    def update_model(self) -> onnx.ModelProto:
        """From gradients, state and settings to the next state."""
        return _without_copies(self.model(self.updates, given=self.gradients.values()))

    @property
    def gradient_model(self) -> onnx.ModelProto:
        """From what is fed, and the state, to losses, gradients, taps and the next statistics."""
        return self.model(self.losses, self.gradients, self.taps, self.statistics)

    @property
    def bytes_alive(self) -> int:
        """The most that the tensors of `gradient_model`, but its weights, take at the same time; for a fixed
        batch.

        A runtime that computes in place needs less, and its scratch memory is not counted.
        """
        graph = self.gradient_model.graph
        weights = {tensor.name for tensor in graph.initializer}
        names = {name for node in graph.node for name in (*node.input, *node.output) if name} - weights
        sizes = {name: self.builder.tensor(name).facts[0].bytes for name in names}
        return peak(graph.node, sizes, [output.name for output in graph.output])

    @property
    def overwritable(self) -> frozenset[str]:
        """The state whose next value may take its place at once: nobody reads the old one after that."""
        nodes = self.update_model.graph.node

        def safe(name: str, after: str) -> bool:
            before = {node.output[0] for node in needed_nodes(nodes, [after])}
            return all(node.output[0] in before for node in nodes if name in node.input)

        return frozenset(name for name, after in self.updates.items() if safe(name, after))


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
    losses = _losses(builder, loss(builder, lambda name: builder.tensor(tensor_named(builder, model, name))))
    starts = _starts(builder, model, [wrt] if isinstance(wrt, str) else wrt, losses["total"])
    weights = [tensor for tensor in starts.values() if tensor in builder.weights]
    state = {name: builder.promote(name) for name in dict.fromkeys([*weights, *mode.statistics])}
    if optimizer and picture in starts.values():
        state[picture] = np.zeros(builder.tensor(picture).shape_for(batch or 1), model.graph.input.dtype)
    parameters = {name: tensor for name, tensor in starts.items() if tensor in state}
    if optimizer and (inner := [name for name, tensor in starts.items() if tensor not in state]):
        raise UsageError(f"the layer '{inner[0]}' is computed by the network, so no optimizer can change it")
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


def _without_copies(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outputs computed in place of copied: a pass over all parameters less."""
    made = {name for node in model.graph.node for name in node.output}
    copies: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in made:
            copies.setdefault(node.input[0], node)
    last = {name: node.output[0] for name, node in copies.items()}
    kept = [node for node in model.graph.node if not any(node is copy for copy in copies.values())]
    for node in kept:
        node.input[:] = [last.get(name, name) for name in node.input]
        node.output[:] = [last.get(name, name) for name in node.output]
    graph = onnx.GraphProto(node=kept)
    del model.graph.node[:]
    model.graph.node.extend(graph.node)
    return model


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
    for what, fixed, asked in [
        ("pictures of height", model.graph.size[0], height),
        ("pictures of width", model.graph.size[1], width),
        ("batches of", model.graph.batch, batch),
    ]:
        if fixed and asked and fixed != asked:
            raise UsageError(f"the network '{model.name}' takes {what} {fixed}, not {asked}")
    height, width = (fixed or asked for fixed, asked in zip(model.graph.size, (height, width), strict=True))
    if height is None or width is None:
        raise UsageError(
            f"the network '{model.name}' takes pictures of any size, but gradients need one: give it"
        )
    shape: list[Size] = [model.graph.batch or batch or "batch", height, width]
    shape.insert(1 if model.graph.layout == "nchw" else 3, model.graph.channels)
    return shape


def _losses(builder: Builder, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a loss and their sum. Raises UsageError for what is no loss."""
    if not isinstance(parts, Mapping) or not parts or "total" in parts:
        raise UsageError("a loss returns a dict of its parts, scalars by name; 'total' is their sum")
    for name, part in parts.items():
        if not isinstance(part, Tensor) or not part.is_floating or part.shape:
            found = f"the shape {part.shape}" if isinstance(part, Tensor) and part.is_floating else repr(part)
            raise UsageError(
                f"the part '{name}' of the loss should be a floating-point scalar, but is {found}"
            )
    first = next(iter(parts.values()))
    losses = {
        name: builder.op.Identity(builder.op.cast(part, first.dtype), output=f"loss/{name}")
        for name, part in parts.items()
    }
    return losses | {"total": builder.op.Sum(*losses.values(), output="loss/total")}


_SETTINGS = {"BatchNormalization": (3, 4), "Clip": (1, 2), "Dropout": (1,), "Pad": (2,), "Resize": (1, 2)}
"""Inputs that are floating-point weights in a file and yet nothing that is trained."""


def _starts(builder: Builder, model: Model, wrt: Sequence[str], total: Tensor) -> dict[str, str]:
    """What is asked about, by the name under which it was; a pattern with `*` stands for several weights.

    These are weights with a dimension that the loss reads and that are no settings of an operator.
    """
    weights = [name for name in builder.weights if builder.tensor(name).is_floating]
    nodes = needed_nodes(builder.nodes, [total])
    read = {name for node in nodes for name in node.input}
    settings = {
        node.input[i] for node in nodes for i in _SETTINGS.get(node.op_type, ()) if i < len(node.input)
    }
    trained = [name for name in weights if builder.tensor(name).rank and name in read - settings]
    starts: dict[str, str] = {}
    for name in wrt:
        matching = [name] if name in weights else fnmatch.filter(trained, name)
        starts |= {weight: weight for weight in matching} or {name: tensor_named(builder, model, name)}
    return starts


def tensor_named(builder: Builder, model: Model, name: str) -> str:
    """The tensor that `input`, a layer, a weight, or a tensor's own name means. Raises UsageError."""
    if name == "input":
        return model.graph.input.name
    if name not in {part.name for part in model.parts} and name in {*builder.weights, *builder.inputs}:
        return name
    try:
        layers = model.find([name])
    except UsageError as error:
        if hint := did_you_mean(name, builder.weights):
            raise UsageError(f"{error}{hint}") from None
        raise
    if len(layers) > 1:
        raise UsageError(f"'{name}' means {len(layers)} layers; name one")
    return layers[0].tensor
