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
from typing import Any

import pluggy

from cnnkit.host.operation import Operation

hookspec = pluggy.HookspecMarker("cnnkit")
hookimpl = pluggy.HookimplMarker("cnnkit")


@dataclass(frozen=True)
class Network:
    """A network that is known by name. `locate()` returns the path of its ONNX file, which then exists."""

    name: str
    summary: str
    licence: str
    locate: Callable[[], Path]


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
