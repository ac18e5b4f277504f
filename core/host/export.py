"""`cnnkit export`: what cnnkit computes, as files that need no cnnkit."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cnnkit.errors import OutputError, UsageError
from cnnkit.host.host import Host, default_host
from cnnkit.host.operation import ModelSpec


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
    from cnnkit.images.files import write_atomically

    host, place = host or default_host(), None if path == "-" else Path(path)
    if place and place.exists() and not force:
        raise OutputError(f"{place} is there already; choose another name or say --force")
    spec = network if isinstance(network, ModelSpec) else ModelSpec(network)
    model = host.model(spec)
    if None in (model.preprocessing.height, model.preprocessing.width):
        raise UsageError(
            f"the network '{model.name}' takes pictures of any size, but gradients need one: "
            "say --size HEIGHTxWIDTH"
        )
    data = gradient_model(model, output, wrt, spec.size, host.gradient_rules()).SerializeToString()
    if place:
        write_atomically(place, data)
    else:
        sys.stdout.buffer.write(data)
    return place
