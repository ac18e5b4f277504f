"""The networks that have a name, and what is in a network."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnkit.errors import CnnkitError
from cnnkit.host.store import record_of, stored_networks

if TYPE_CHECKING:
    from cnnkit.graphs.layers import Layer
    from cnnkit.host.hookspecs import Network
    from cnnkit.host.operation import ModelSpec

log = logging.getLogger("cnnkit")


def known_networks() -> list[dict[str, Any]]:
    """Every network that has a name, as a JSON-able dict: those of plugins, then the others stored here.

    `state` is "packaged" (comes with its plugin), "made" (from a seed, when it is needed), "pulled", "not
    pulled" or "stored" (imported, or pulled under another name). `path` and `bytes` are None for what is not
    on this machine; `download` are the bytes of the published weights, None where they are not known.
    """
    from cnnkit.host.host import default_host

    host = default_host()
    stored = stored_networks()
    found = []
    for name in host.names("cnnkit.models"):
        try:
            network = host.network(name)
            path = host.locate(name) if network.locate else stored.get(name)
        except CnnkitError as error:
            if host.strict:
                raise
            log.warning("left out: %s", error)
            continue
        missing = "made" if network.weights else "not pulled"
        state = "packaged" if network.locate else "pulled" if path else missing
        found.append(_entry(name, network.summary, network.licence, state, path, network))
    for name in sorted(stored.keys() - {entry["name"] for entry in found}):
        record = record_of(stored[name])
        summary, licence = (record.summary, record.licence) if record else ("", "")
        found.append(_entry(name, summary, licence, "stored", stored[name]))
    return found


def describe(spec: "ModelSpec") -> dict[str, Any]:
    """What a network is, as a JSON-able dict; `path` and `bytes` are None when it is made from weights."""
    from cnnkit.graphs.measure import measure
    from cnnkit.host.host import default_host

    host = default_host()
    model = host.model(spec)
    path = None if host.weights_of(spec) else host.locate(spec.name)
    height, width = model.preprocessing.height, model.preprocessing.width
    measures = measure(model.graph, height, width)
    return {
        "name": model.name,
        "path": str(path) if path else None,
        "bytes": path.stat().st_size if path else None,
        "sha256": model.sha256,
        "licence": model.licence,
        "origin": model.origin,
        "input": list(model.graph.input.shape),
        "preprocessing": model.preprocessing.to_json(),
        "outputs": [{"name": output.name, "shape": list(output.shape)} for output in model.graph.outputs],
        "labels": len(model.labels),
        "layers": len(model.layers),
        "parameters": measures.parameters,
        "macs": measures.macs,
        "assumed": list(model.assumptions),
    }


def layer_table(spec: "ModelSpec", layout: str = "nchw") -> dict[str, Any]:
    """Every layer of a network, and the totals; JSON-able.

    `operator` joins those of a layer that is several nodes, "Conv+Relu", and `inside` has the names and the
    operators of those that are not its last. `shown` is the output's shape as
    text, in the order of `layout` ("nchw", or "nhwc" as Keras prints it). `macs` are those of the `batch`
    that the file fixes, of one picture where it is None.
    """
    from cnnkit.graphs.measure import measure
    from cnnkit.host.host import default_host

    model = default_host().model(spec)
    height, width = model.preprocessing.height, model.preprocessing.width
    measures = measure(model.graph, height, width)
    parts: dict[int, list[Layer]] = {}
    for part in model.parts:
        parts.setdefault(part.index, []).append(part)
    rows = [
        {
            "index": row.layer.index,
            "name": row.layer.name,
            "operator": "+".join(part.operator for part in parts[row.layer.index]),
            "inside": [(part.name, part.operator) for part in parts[row.layer.index] if part != row.layer],
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
        "batch": model.graph.batch,
        "parameters": measures.parameters,
        "macs": measures.macs,
        "layers": rows,
    }


def _entry(
    name: str, summary: str, licence: str, state: str, path: Path | None, network: "Network | None" = None
) -> dict[str, Any]:
    source = network.source if network else None
    return {
        "name": name,
        "summary": summary,
        "licence": licence,
        "state": state,
        "path": str(path) if path else None,
        "bytes": path.stat().st_size if path else None,
        "address": source.address if source else None,
        "download": source.size or None if source else None,
    }


def _shown(shape: tuple[int | None, ...] | None, layout: str, own: str) -> str:
    if shape is None:
        return "?"
    if len(shape) == 4 and layout == "nhwc" and own == "nchw":
        shape = (shape[0], *shape[2:], shape[1])
    return "x".join("?" if size is None else str(size) for size in shape[1:] or shape)
