"""`cnnkit export` and `cnnkit models export`: what cnnkit has and computes, as files that need no cnnkit."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnkit.errors import OutputError, UsageError
from cnnkit.host.changes import Changes
from cnnkit.host.host import Host, default_host
from cnnkit.host.operation import ModelSpec


def export_network(
    spec: ModelSpec,
    path: str | Path,
    changes: Changes = Changes(),
    shape: Mapping[str, Any] = {},
    force: bool = False,
    host: Host | None = None,
) -> Path | None:
    """Write a network as one ordinary ONNX file, to standard output where `path` is "-".

    `shape` is what is asked of the architecture when the network is made from weights: `classes`, `alpha`,
    `size`, `activation`. Returns the path of the file, if there is one.

    Raises ModelError, UsageError, and OutputError when the file is there already and not `force`.
    """
    host, place = host or default_host(), _place(path, force)
    if not shape:
        model = host.model(spec)
    elif spec.weights:
        model = host.build(spec.name, spec.weights, **shape)
    else:
        raise UsageError(
            f"the stored network '{spec.name}' has its {', '.join(shape)} already; say --weights FILE or "
            "--weights random:0 to make another."
        )
    return _write(changes.apply(model).serialised(), place)


def export_gradient(
    network: str | ModelSpec,
    output: str,
    wrt: Sequence[str],
    path: str | Path,
    force: bool = False,
    host: Host | None = None,
) -> Path | None:
    """Write the gradient of a network as an ordinary ONNX file, to standard output where `path` is "-".

    See `cnnkit.gradient_model`. Returns the path of the file, if there is one.

    Raises ModelError, UsageError, and OutputError when the file is there already and not `force`.
    """
    from cnnkit.graphs.gradient_model import gradient_model

    host, place = host or default_host(), _place(path, force)
    spec = network if isinstance(network, ModelSpec) else ModelSpec(network)
    model = host.model(spec)
    if None in (model.preprocessing.height, model.preprocessing.width):
        raise UsageError(
            f"the network '{model.name}' takes pictures of any size, but gradients need one: "
            "say --input-size HEIGHTxWIDTH"
        )
    whole = gradient_model(model, output, wrt, spec.size, host.gradient_rules())
    return _write([whole.SerializeToString()], place)


def _place(path: str | Path, force: bool) -> Path | None:
    """The file to write; None is standard output."""
    place = None if path == "-" else Path(path)
    if place and place.exists() and not force:
        raise OutputError(f"{place} is there already; choose another name or say --force")
    return place


def _write(pieces: Iterable[bytes | memoryview], place: Path | None) -> Path | None:
    from cnnkit.images.files import write_atomically

    if place:
        write_atomically(place, pieces)
    else:
        sys.stdout.buffer.writelines(pieces)
    return place
