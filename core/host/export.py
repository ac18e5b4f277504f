"""`cnnkit export`: what cnnkit computes, as files that need no cnnkit."""

from collections.abc import Sequence
from pathlib import Path

from cnnkit.errors import OutputError
from cnnkit.host.host import Host, default_host
from cnnkit.host.operation import ModelSpec


def export_gradient(
    network: str | ModelSpec,
    output: str,
    wrt: Sequence[str],
    path: str | Path,
    force: bool = False,
    host: Host | None = None,
) -> Path:
    """Write the gradient of a network as an ordinary ONNX file; see `cnnkit.gradient_model`.

    Raises ModelError, UsageError, and OutputError when the file is there already and not `force`.
    """
    from cnnkit.graphs.gradient_model import gradient_model
    from cnnkit.images.files import write_atomically

    host, path = host or default_host(), Path(path)
    if path.exists() and not force:
        raise OutputError(f"{path} is there already; choose another name or say --force")
    spec = network if isinstance(network, ModelSpec) else ModelSpec(network)
    made = gradient_model(host.model(spec), output, wrt, spec.size, host.gradient_rules())
    write_atomically(path, made.SerializeToString())
    return path
