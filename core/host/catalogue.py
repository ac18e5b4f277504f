"""The networks that have a name: those that plugins bring, and those stored on this machine."""

import logging
import os
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, ModelError, OutputError

log = logging.getLogger("cnnkit")


def store() -> Path:
    """The folder of stored networks: `$CNNKIT_HOME/models`, or `models` in the platform's cache folder."""
    import platformdirs

    home = os.environ.get("CNNKIT_HOME") or platformdirs.user_cache_dir("cnnkit", appauthor=False)
    return Path(home) / "models"


def stored_networks() -> dict[str, Path]:
    """Every `NAME.onnx` in the store, by name, sorted."""
    return {path.stem: path for path in sorted(store().glob("*.onnx"))}


def remove_network(name: str) -> Path:
    """Delete a stored network and return the path it had. Raises ModelError or OutputError."""
    stored = stored_networks()
    if name not in stored:
        known = ", ".join(stored) or "none"
        raise ModelError(f"there is no stored network '{name}' to remove in {store()}; there are: {known}.")
    try:
        stored[name].unlink()
    except OSError as error:
        raise OutputError(f"{stored[name]} cannot be removed: {error.strerror}.") from None
    return stored[name]


def known_networks() -> list[dict[str, Any]]:
    """Name, summary, licence, path, size in bytes and origin of every network that has a name."""
    from cnnkit.host.host import default_host

    host = default_host()
    found = []
    for name in host.names("cnnkit.models"):
        try:
            network, path = host.network(name), host.locate(name)
        except CnnkitError as error:
            if host.strict:
                raise
            log.warning("left out: %s", error)
            continue
        found.append(_entry(name, network.summary, network.licence, path, "a plugin"))
    for name, path in stored_networks().items():
        found.append(_entry(name, "stored on this machine", "", path, str(store())))
    return found


def describe(name: str) -> dict[str, Any]:
    """What the network `name` (known by name, or a path) is, as a JSON-able dict."""
    from cnnkit.graphs.measure import measure
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import ModelSpec

    host = default_host()
    path = host.locate(name)
    model = host.model(ModelSpec(name))
    height, width = model.preprocessing.height, model.preprocessing.width
    measures = measure(model.graph, height, width)
    return {
        "name": model.name,
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": model.sha256,
        "licence": model.licence,
        "input": list(model.graph.input.shape),
        "preprocessing": model.preprocessing.to_json(),
        "outputs": [{"name": output.name, "shape": list(output.shape)} for output in model.graph.outputs],
        "labels": len(model.labels),
        "layers": len(model.layers),
        "parameters": measures.parameters,
        "macs": measures.macs,
        "assumed": list(model.assumptions),
    }


def layer_table(name: str, size: tuple[int, int] | None = None, layout: str = "nchw") -> dict[str, Any]:
    """Every layer of the network `name` at an input of (height, width), and the totals; JSON-able.

    `shown` is the output's shape as text, in the order of `layout` ("nchw", or "nhwc" as Keras prints it).
    """
    from cnnkit.graphs.measure import measure
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import ModelSpec

    model = default_host().model(ModelSpec(name, size=size))
    height, width = model.preprocessing.height, model.preprocessing.width
    measures = measure(model.graph, height, width)
    rows = [
        {
            "index": row.layer.index,
            "name": row.layer.name,
            "operator": row.layer.operator,
            "shape": row.shape,
            "shown": _shown(row.shape, layout, model.preprocessing.layout),
            "parameters": row.parameters,
            "macs": row.macs,
        }
        for row in measures.rows
    ]
    return {
        "network": model.name,
        "height": height,
        "width": width,
        "parameters": measures.parameters,
        "macs": measures.macs,
        "layers": rows,
    }


def _entry(name: str, summary: str, licence: str, path: Path, origin: str) -> dict[str, Any]:
    size = path.stat().st_size
    return {
        "name": name,
        "summary": summary,
        "licence": licence,
        "path": str(path),
        "bytes": size,
        "origin": origin,
    }


def _shown(shape: tuple[int | None, ...] | None, layout: str, own: str) -> str:
    if shape is None:
        return "?"
    if len(shape) == 4 and layout == "nhwc" and own == "nchw":
        shape = (shape[0], *shape[2:], shape[1])
    return "x".join("?" if size is None else str(size) for size in shape[1:] or shape)
