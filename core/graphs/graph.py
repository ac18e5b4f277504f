"""`Graph`: a checked ONNX graph with a picture as its input."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from cnnkit.errors import ModelError
from cnnkit.graphs.builder import needed_nodes
from cnnkit.graphs.checking import check_model
from cnnkit.graphs.layers import LAYERS_KEY, find_layers, layers_of, parts_of, read_by
from cnnkit.graphs.layers import Layer as Layer
from cnnkit.graphs.loading import Files, array_of, is_elsewhere, read_skeleton
from cnnkit.graphs.saving import serialised


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph. A size is a number, a symbol, or None where the file says nothing."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph whose large weights stay in their file.

    `skeleton` is the ONNX model with references in place of those weights; `proto` is the whole. `files` is
    None when everything is in the skeleton. `as_read` says that nothing was changed since it was read.
    """

    skeleton: onnx.ModelProto
    files: Files | None = None
    as_read: bool = False

    @staticmethod
    def load(path: str | Path) -> "Graph":
        """Read and check a model file. Raises ModelError, one sentence for each thing that can be wrong."""
        skeleton, files = read_skeleton(Path(path))
        check_model(skeleton, str(path))
        return Graph(skeleton, files, as_read=True)

    @staticmethod
    def of(proto: onnx.ModelProto) -> "Graph":
        """Check a model in memory. Raises ModelError."""
        check_model(proto, "the model")
        return Graph(proto)

    @cached_property
    def input(self) -> Tensor:
        """The picture."""
        return _tensor(picture_input(self.skeleton.graph))

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(map(_tensor, self.skeleton.graph.output))

    @cached_property
    def parts(self) -> tuple[Layer, ...]:
        """Every node that carries the picture on: the layers, and the nodes inside of them."""
        return parts_of(self.skeleton, self.input.name)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return layers_of(self.skeleton, self.parts)

    def find(self, patterns: str | Sequence[str]) -> tuple[Layer, ...]:
        """The layers, or nodes inside, that the patterns name, in graph order; see `find_layers`."""
        return find_layers(self.layers, patterns, self.parts)

    @cached_property
    def layout(self) -> Literal["nchw", "nhwc"]:
        """Where the channels of the picture are: behind the batch, or last."""
        return "nchw" if self.input.shape[1] in (1, 3) else "nhwc"

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width of the picture, None where the graph takes any."""
        sizes = self.input.shape[2:4] if self.layout == "nchw" else self.input.shape[1:3]
        height, width = (size if isinstance(size, int) else None for size in sizes)
        return height, width

    @property
    def channels(self) -> int:
        """1 or 3."""
        channels = self.input.shape[1 if self.layout == "nchw" else 3]
        assert isinstance(channels, int)
        return channels

    @property
    def batch(self) -> int | None:
        """The fixed number of pictures of one run, or None where the graph takes any."""
        return self.input.shape[0] if isinstance(self.input.shape[0], int) else None

    @cached_property
    def producers(self) -> Mapping[str, onnx.NodeProto]:
        """Tensor name -> the node that computes it."""
        return {name: node for node in self.skeleton.graph.node for name in node.output if name}

    @cached_property
    def _initializers(self) -> Mapping[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.skeleton.graph.initializer}

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value, not writable, of a weight, also through Identity and Cast, or of a Constant node.

        None for any other tensor.
        """
        if tensor := self._initializers.get(name):
            return array_of(tensor, self.files)
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Constant", "Identity", "Cast"):
            return None
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
        source = self.constant(node.input[0])
        if source is None or node.op_type == "Identity":
            return source
        to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        return source.astype(helper.tensor_dtype_to_np_dtype(to), copy=False)

    @property
    def proto(self) -> onnx.ModelProto:
        """The whole model with all its weights in one message: a copy as large as the file."""
        whole = onnx.ModelProto()
        whole.CopyFrom(self.skeleton)
        for tensor in whole.graph.initializer:
            if self.files and is_elsewhere(tensor):
                raw = self.files.array(tensor).tobytes()
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = raw
        return whole

    def extract(self, tensors: Iterable[str]) -> "Graph":
        """The graph of only what these tensors need; they are its outputs, in this order.

        Raises ModelError for a tensor that the picture does not lead to.
        """
        names = list(dict.fromkeys(tensors))
        known = {self.input.name, *self.producers}
        for name in names:
            if name not in known:
                raise ModelError(f"the network has no tensor '{name}'")
        return self.rebuilt(self.skeleton.graph.node, self.skeleton.graph.initializer, names)

    def rebuilt(
        self,
        nodes: Sequence[onnx.NodeProto],
        weights: Iterable[onnx.TensorProto],
        outputs: Iterable[str],
    ) -> "Graph":
        """The graph with these nodes and weights in place of its own, of only what the outputs need."""
        graph, names = self.skeleton.graph, list(outputs)
        kept = needed_nodes(nodes, names)
        needed = {name for node in kept for name in read_by(node)}.union(names)
        part = onnx.ModelProto(
            ir_version=self.skeleton.ir_version,
            producer_name=self.skeleton.producer_name,
            opset_import=self.skeleton.opset_import,
            functions=self.skeleton.functions,
            metadata_props=self.skeleton.metadata_props,
        )
        part.graph.name = graph.name
        part.graph.node.extend(kept)
        part.graph.initializer.extend(tensor for tensor in weights if tensor.name in needed)
        part.graph.sparse_initializer.extend(graph.sparse_initializer)
        part.graph.input.append(picture_input(graph))
        declared = {value.name: value for value in [*graph.value_info, *graph.output, picture_input(graph)]}
        part.graph.output.extend(declared.get(name) or onnx.ValueInfoProto(name=name) for name in names)
        return Graph(part, self.files)

    def with_layers(self, tensors: Mapping[str, str]) -> "Graph":
        """The graph whose layers are these tensors, as far as it has them, under these names."""
        changed = onnx.ModelProto()
        changed.CopyFrom(self.skeleton)
        metadata = {entry.key: entry.value for entry in changed.metadata_props}
        del changed.metadata_props[:]
        listed = [[name, tensor] for name, tensor in tensors.items() if tensor in self.producers]
        helper.set_model_props(changed, metadata | {LAYERS_KEY: json.dumps(listed)})
        return Graph(changed, self.files)

    @cached_property
    def sha256(self) -> str:
        """Of the files that the graph was read from, else of its serialised form; hexadecimal."""
        if self.files and self.as_read:
            return self.files.sha256()
        digest = hashlib.sha256()
        for piece in serialised(self.skeleton, self.files):
            digest.update(piece)
        return digest.hexdigest()


def picture_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in graph.initializer}
    value: onnx.ValueInfoProto = next(value for value in graph.input if value.name not in weights)
    return value


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim
    )
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype(np.float32)
    return Tensor(value.name, shape, dtype)
