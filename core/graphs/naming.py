"""Names of nodes as people know them: the modules and layers of the program that was exported.

An exporter keeps the path of a module somewhere: PyTorch's older one in the names of nodes,
`/layer1/layer1.0/conv1/Conv`; its newer one in their metadata, `['', 'layer1', 'layer1.0', 'layer1.0.conv1',
'conv2d_1']`; tf2onnx in names again, `StatefulPartitionedCall/vgg16_1/block1_conv1_1/Relu`. So these become
`layer1.0.conv1` and `block1_conv1`.
"""

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Identity"}


@dataclass(frozen=True)
class _Place:
    """Where a node belongs: the names of modules from outside inwards, and what separates them in a path.

    `own` says that the module itself has this node; an exporter adds some around it.
    """

    path: tuple[str, ...]
    separator: str
    own: bool = True


def readable_names(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> dict[str, str]:
    """First output -> name, for those of the nodes whose module the exporter kept.

    The node that computes a module's value, its last, is called by the module's path, and the others by path
    and operator: `block1_conv1/conv`. Every name is given once; a number, with which layers are picked by
    index, is none.
    """
    places = _of_tensorflow(nodes) if model.producer_name == "tf2onnx" else [*map(_of_torch, nodes)]
    last = {
        place.path[:depth]: node.output[0]
        for node, place in zip(nodes, places, strict=True)
        if place and place.own
        for depth in range(1, len(place.path) + 1)
    }
    names: dict[str, str] = {}
    rest: list[tuple[onnx.NodeProto, str]] = []
    for node, place in zip(nodes, places, strict=True):
        if place is None:
            continue
        module = place.separator.join(place.path)
        if last.get(place.path) == node.output[0] and not module.isdecimal():
            names[node.output[0]] = module
        else:
            rest.append((node, "/".join([*([module] if module else []), node.op_type.lower()])))
    taken = set(names.values())
    for node, name in rest:
        unique, number = name, 0
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        names[node.output[0]] = unique
    return names


def _of_torch(node: onnx.NodeProto) -> _Place | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES_KEY:
            try:
                *_, module, _call = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, TypeError):
                return None
            return _Place(tuple(str(module).split(".")) if module else (), ".")
    if not node.name.startswith("/"):
        return None
    path: list[str] = []
    before = ""
    for scope in node.name[1:].split("/")[
        :-1
    ]:  # each is a module, with its parent where that is a Sequential
        inner = scope.removeprefix(f"{before}.") if before else scope
        path += inner.split(".")
        before = scope
    return _Place(tuple(path), ".")


def _of_tensorflow(nodes: Sequence[onnx.NodeProto]) -> list[_Place | None]:
    """Paths of layers, without the scopes around all of them."""
    strangers = {"StatefulPartitionedCall", "PartitionedCall", "batchnorm", "separable_conv2d"}
    scopes = [[scope for scope in node.name.split("/")[:-1] if scope not in strangers] for node in nodes]
    paths = [tuple(scope) for scope in scopes if scope]
    around = 0
    while len({path[: around + 1] for path in paths}) == 1 and all(len(path) > around + 1 for path in paths):
        around += 1
    shown = _untraced({path[around:] for path in paths})
    places: list[_Place | None] = []
    for node, scope in zip(nodes, scopes, strict=True):
        added = bool(re.search(r"__\d+$", node.name)) and node.op_type in _MOVES
        path = shown.get(tuple(scope[around:]))
        places.append(_Place(path, "/", own=not added) if path else None)
    return places


def _untraced(paths: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """What each path is called: Keras 3 writes a number behind the name of every layer that it traces."""
    bare = {path: tuple(re.sub(r"_\d+$", "", layer) for layer in path) for path in paths}
    traced = all(layer != had for path in paths for layer, had in zip(bare[path], path, strict=True))
    return bare if traced and len(set(bare.values())) == len(paths) else {path: path for path in paths}
