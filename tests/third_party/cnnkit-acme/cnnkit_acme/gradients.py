"""A gradient rule; what it is called with is the engine's business."""

from typing import Any

from cnnkit import hookimpl


def swish(*arguments: Any) -> list[Any]:
    return [None]


@hookimpl
def cnnkit_gradient_rules() -> dict[str, Any]:
    return {"AcmeSwish": swish}
