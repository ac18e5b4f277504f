"""A gradient rule for an operator that cnnkit has none for."""

from typing import Any

from cnnkit import hookimpl


def max_unpool(op: Any, node: Any, dy: Any, x: Any, places: Any, *shape: Any) -> tuple[Any, ...]:
    """Each number was put at one place of the whole output; its gradient is fetched from there."""
    fetched = op.GatherElements(op.Reshape(dy, [-1]), op.Reshape(places, [-1]), axis=0)
    return op.Reshape(fetched, op.shape(x)), None


@hookimpl
def cnnkit_gradient_rules() -> dict[str, Any]:
    return {"MaxUnpool": max_unpool}
