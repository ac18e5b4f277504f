"""The contract of a loss."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cnnkit import Builder
from cnnkit.graphs.autodiff.check import slopes
from cnnkit.graphs.autodiff.reference import Reference
from cnnkit.testing.slopes import assert_right


def check_loss(
    loss: Callable[..., Any],
    tensor: NDArray[Any],
    *others: Any,
    equals: float,
    tolerance: float = 1e-9,
    **keywords: Any,
) -> None:
    """Assert that a loss has the value that its formula gives, and the gradient that its value has.

    It is called as `loss(op, tensor, *others, **keywords)`, arrays among the others as constants. Its value
    `equals` a number, up to a relative `tolerance` in float64; its gradient with respect to the tensor
    predicts how it changes; it is one number, of the tensor's type, in float32 and in float64.

        check_loss(losses.mean_squared_error, np.array([1.0, 3.0]), 2.0, equals=1.0)
    """
    tensor = np.asarray(tensor, np.float64)
    for dtype in (np.float32, np.float64):
        builder, value = _written(loss, tensor, others, dtype, keywords)
        assert (value.shape, value.dtype) == ((), dtype), (
            f"for a tensor of {np.dtype(dtype)} the loss has shape {value.shape} and type {value.dtype}; "
            "it is one number of the tensor's type"
        )
    found = slopes(builder, value, {"tensor": tensor}, ["tensor"])
    (measured,) = Reference(builder.model(only=[value])).run({"tensor": tensor}).values()
    assert abs(measured - equals) <= tolerance * max(abs(equals), 1.0), (
        f"the loss is {float(measured):.12g}, not {equals:.12g}"
    )
    assert_right(found, lambda _: "with respect to the tensor")


def _written(
    loss: Callable[..., Any],
    tensor: NDArray[Any],
    others: tuple[Any, ...],
    dtype: DTypeLike,
    keywords: dict[str, Any],
) -> tuple[Builder, Any]:
    """A graph of nothing but the loss, and its value."""
    builder = Builder("loss")
    x = builder.input("tensor", tensor.shape, dtype)
    return builder, loss(builder.op, x, *(_constant(builder, other, dtype) for other in others), **keywords)


def _constant(builder: Builder, value: Any, dtype: DTypeLike) -> Any:
    """An array as a tensor, of whole numbers as they are; a plain number stays one."""
    if not np.ndim(value):
        return value
    array = np.asarray(value)
    return builder.constant(array.astype(dtype) if array.dtype.kind == "f" else array)
