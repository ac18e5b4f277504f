"""A loss; what it is called with is the engine's business."""

from typing import Any

from cnnkit import hookimpl


def l1(op: Any, tensor: str) -> str:
    return str(op.ReduceMean(op.Abs(tensor)))


@hookimpl
def cnnkit_losses() -> dict[str, Any]:
    return {"acme-l1": l1}
