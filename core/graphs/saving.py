"""Writing ONNX files without a second copy of their weights.

A file is written piece by piece: first everything but the weights, then one weight after the other, the large
ones straight from where they are. The lengths that protobuf writes in front are computed before.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from cnnkit.errors import OutputError
from cnnkit.graphs.loading import GRAPH, INITIALIZER, LARGE, RAW_DATA, Files, is_elsewhere, varint

LARGEST_FILE = (1 << 31) - 1
"""Bytes that protobuf reads of one message."""


def serialised(
    model: onnx.ModelProto, files: Files | None, metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a model's file, one tensor at a time; `metadata` take the place of its own.

    Raises OutputError when they are more than a reader takes.
    """
    outside = without(model, "graph")
    if metadata is not None:
        del outside.metadata_props[:]
        helper.set_model_props(outside, dict(metadata))
    graph = without(model.graph, "initializer").SerializeToString(deterministic=True)
    heads = [_head(tensor, files) for tensor in model.graph.initializer]
    inside = len(graph) + sum(len(head) + size for head, size in heads)
    start = outside.SerializeToString(deterministic=True) + _field(GRAPH, inside)
    if len(start) + inside > LARGEST_FILE:
        raise OutputError(
            f"the network takes {len(start) + inside >> 20} MiB, and an ONNX file holds 2047 at most: store "
            "its weights as float16, or cut it"
        )
    yield start + graph
    for tensor, (head, size) in zip(model.graph.initializer, heads, strict=True):
        yield head
        if size:
            yield _data(tensor, files)


def without(message: Any, *fields: str) -> Any:
    """A copy of a protobuf message but for these fields."""
    kept = {field.name: value for field, value in message.ListFields() if field.name not in fields}
    return type(message)(**kept)


def described(tensor: TensorProto) -> TensorProto:
    """A tensor of raw data, here or in a file, without the data."""
    kept = ("dims", "data_type", "name", "doc_string", "metadata_props")
    return TensorProto(**{name: value for name in kept if (value := getattr(tensor, name))})


def is_large(tensor: TensorProto) -> bool:
    """Whether a tensor of raw data is worth not being copied."""
    return is_elsewhere(tensor) or (tensor.HasField("raw_data") and 4 * math.prod(tensor.dims) >= LARGE)


def _head(tensor: TensorProto, files: Files | None) -> tuple[bytes, int]:
    """All that stands in a graph before the data of a tensor, and their length; 0 where they are in it."""
    if not is_large(tensor):
        whole = tensor.SerializeToString(deterministic=True)
        return _field(INITIALIZER, len(whole)) + whole, 0
    size = len(_data(tensor, files))
    head = described(tensor).SerializeToString(deterministic=True) + _field(RAW_DATA, size)
    return _field(INITIALIZER, len(head) + size) + head, size


def _data(tensor: TensorProto, files: Files | None) -> bytes | memoryview:
    if files and is_elsewhere(tensor):
        return files.array(tensor).reshape(-1).view(np.uint8).data
    return tensor.raw_data


def _field(number: int, length: int) -> bytes:
    """What protobuf writes in front of a field of so many bytes."""
    return varint(number << 3 | 2) + varint(length)
