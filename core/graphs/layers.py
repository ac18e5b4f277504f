"""The layers of a graph: its nodes that carry the picture on, with names, and ways to pick some of them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from cnnkit.errors import UsageError, did_you_mean
from cnnkit.graphs.naming import readable_names

LAYERS_KEY = "cnnkit.layers"


@dataclass(frozen=True)
class Layer:
    """A layer, or one node inside of it, and the tensor that it computes (its first output).

    `index` counts the layers; a node inside has that of its layer. `node` is what the file calls it.
    """

    index: int
    name: str
    operator: str
    tensor: str
    node: str = ""


def parts_of(model: onnx.ModelProto, picture: str) -> tuple[Layer, ...]:
    """Every node whose output depends on the values of the picture, in graph order.

    A node is called what the metadata say; without metadata as its module, see `readable_names`; else as in
    the file, and if that has no name for it as its tensor. The nodes that the metadata name are the layers,
    and the others lie inside the layer that ends behind them; a file without metadata has a layer for each.
    """
    given = {tensor: name for name, tensor in _named(model)}
    nodes = [node for node in picture_nodes(model.graph, picture) if node.output[0]]
    counts = Counter(node.name for node in nodes)
    parts: list[Layer] = []
    names = given or readable_names(model, nodes)
    taken = set(names.values())
    last = sum(node.output[0] in given for node in nodes) - 1 if given else len(nodes)
    index = 0
    for node in nodes:
        tensor = node.output[0]
        name = names.get(tensor) or (
            node.name if node.name and counts[node.name] == 1 and node.name not in taken else tensor
        )
        parts.append(Layer(min(index, max(last, 0)), name, node.op_type, tensor, node.name))
        index += not given or tensor in given
    return tuple(parts)


def layers_of(model: onnx.ModelProto, parts: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those of the parts that are layers: all where the metadata name none."""
    given = {tensor for _, tensor in _named(model)}
    return tuple(part for part in parts if part.tensor in given) or tuple(parts)


def find_layers(
    layers: Sequence[Layer], patterns: str | Sequence[str], parts: Sequence[Layer] = ()
) -> tuple[Layer, ...]:
    """The layers that any of the patterns names, in graph order.

    A pattern is a layer's name (or its node's or tensor's); an index, from the end when negative; a range
    `3:9` of indices without its end, as in Python; or names with `*`, `?` and `[...]`. Commas separate
    patterns in one text. What names no layer may name one of the `parts`, the nodes inside layers, or a
    module around some of them, which means the last of these: layer4.1 for layer4.1.relu.

    Raises UsageError for a pattern that names nothing.
    """
    texts = patterns.split(",") if isinstance(patterns, str) else patterns
    parts = parts or layers
    found = {layer.tensor for text in texts for layer in _matching(layers, parts, text.strip())}
    return tuple(part for part in parts if part.tensor in found)


def picture_nodes(graph: onnx.GraphProto, picture: str) -> Iterator[onnx.NodeProto]:
    """The nodes between the picture and the outputs; not those that only compute shapes or constants."""
    live = {picture}
    for node in graph.node:
        values = node.input[:1] if node.op_type == "CastLike" else read_by(node)
        if node.op_type not in ("Shape", "Size") and live.intersection(values):
            live.update(node.output)
            live.discard("")
            yield node


def read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, also those that only its inner graphs (of If, Loop, Scan) mention."""
    return {name for name in node.input if name} | read_inside(node)


def read_inside(node: onnx.NodeProto) -> set[str]:
    """The tensors from outside that the inner graphs of a node mention."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            inner = {name for child in graph.node for name in read_by(child)}
            made = {name for child in graph.node for name in child.output}
            made |= {value.name for value in [*graph.input, *graph.initializer]}
            names |= (inner | {value.name for value in graph.output}) - made
    return names


def _named(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    for entry in model.metadata_props:
        if entry.key == LAYERS_KEY:
            yield from json.loads(entry.value)


def _matching(layers: Sequence[Layer], parts: Sequence[Layer], text: str) -> Iterable[Layer]:
    for exact in (
        [layer for layer in layers if layer.name == text],
        [part for part in parts if part.name == text],
        [part for part in parts if part.tensor == text],
        [part for part in parts if part.node == text],
    ):
        if exact:
            return exact
    if re.fullmatch(r"[+-]?\d+", text):
        if not -len(layers) <= int(text) < len(layers):
            raise UsageError(
                f"there is no layer {text}: the network has {len(layers)}, from 0 to {len(layers) - 1}"
            )
        return [layers[int(text)]]
    if span := re.fullmatch(r"([+-]?\d*):([+-]?\d*)", text):
        start, stop = (int(end) if end else None for end in span.groups())
        found = list(layers[start:stop])
        if not found:
            raise UsageError(
                f"no layer lies in {text}: the network has {len(layers)}, from 0 to {len(layers) - 1}"
            )
        return found
    found = [layer for layer in layers if fnmatchcase(layer.name, text)]
    found = found or [part for part in parts if fnmatchcase(part.name, text)]
    found = found or [part for part in parts if fnmatchcase(part.node, text)]
    found = found or [part for part in parts if part.name.startswith((f"{text}.", f"{text}/"))][-1:]
    if not found:
        hint = did_you_mean(text, (part.name for part in parts))
        raise UsageError(
            f"no layer is called '{text}'.{hint} `cnnkit models layers` lists all {len(layers)}."
        )
    return found
