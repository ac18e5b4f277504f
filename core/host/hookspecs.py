"""The four hooks. Each returns data; the host does the rest. The entry-point groups have the same names.

| entry-point group | hook | the entry point's name is |
|---|---|---|
| `cnnkit.operations` | `cnnkit_operations` | the word after `cnnkit run` |
| `cnnkit.models` | `cnnkit_models` | the word after `--model` |
| `cnnkit.gradient_rules` | `cnnkit_gradient_rules` | the operator's type |
| `cnnkit.losses` | `cnnkit_losses` | the loss |
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from cnnkit.host.operation import Operation

if TYPE_CHECKING:
    from cnnkit.graphs.model import Model

hookspec = pluggy.HookspecMarker("cnnkit")
hookimpl = pluggy.HookimplMarker("cnnkit")


@dataclass(frozen=True)
class Source:
    """A published file. `checksum` is "md5:…" or "sha256:…", empty where nobody publishes one; `size` counts
    its bytes, 0 where that is not known."""

    address: str
    checksum: str = ""
    size: int = 0


@dataclass(frozen=True)
class Network:
    """A network that is known by name: one whose file is there, or one that is made from its weights.

    `locate()` returns the path of the ONNX file of the first kind, which then exists.

    `build(weights, **shape)` returns the `Model` of the second kind with the weights of a file, or with
    "random:SEED"; keywords of its own are what can be asked of the architecture (`classes`, `size`, `alpha`).
    `source` is where its published weights are and `labels` where the names of its classes are: `cnnkit
    models pull` fetches both and keeps what `build` makes of them. A network whose own weights are random
    says in `weights` which, "random:0", and is there without a file.
    """

    name: str
    summary: str
    licence: str
    locate: Callable[[], Path] | None = None
    build: Callable[..., "Model"] | None = None
    source: Source | None = None
    labels: Source | None = None
    weights: str | None = None


@hookspec
def cnnkit_operations() -> list[Operation]:  # type: ignore[empty-body]
    """Operations, each under the name of an entry point of group `cnnkit.operations`."""


@hookspec
def cnnkit_models() -> list[Network]:  # type: ignore[empty-body]
    """Networks, each under the name of an entry point of group `cnnkit.models`."""


@hookspec
def cnnkit_gradient_rules() -> dict[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Gradient rules by operator type."""


@hookspec
def cnnkit_losses() -> dict[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Losses by name."""
