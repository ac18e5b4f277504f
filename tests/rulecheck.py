"""What the tests of gradient rules share: a float64 check by finite differences, and torch's answer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.check import slopes
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.tensors import Tensor

Write = Callable[..., Tensor]
"""(op, *tensors) -> the output: the small graph that is to be differentiated."""


def inputs_of(builder: Builder, arrays: Mapping[str, NDArray[Any]], batch: bool = False) -> list[Tensor]:
    """Inputs of the arrays' shapes and types; with `batch` their first size stays open."""
    return [
        builder.input(
            name, ["batch" if batch else len(array), *array.shape[1:]] if array.ndim else (), array.dtype
        )
        for name, array in arrays.items()
    ]


def assert_slopes(
    write: Write, *arrays: NDArray[Any], opset: int = 18, batch: bool = False, **named: Any
) -> None:
    """The gradient of `write(op, *tensors)` agrees with central differences in float64.

    Floating-point arrays are differentiated with respect to; others are only fed.
    """
    feeds = {f"x{index}": np.asarray(array) for index, array in enumerate(arrays)}
    feeds = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in feeds.items()}
    builder = Builder(opset=opset)
    out = write(builder.op, *inputs_of(builder, feeds, batch), **named)
    wrt = [name for name, array in feeds.items() if array.dtype.kind == "f"]
    for slope in slopes(builder, out, feeds, wrt):
        assert slope.good, f"{slope} is wrong by {slope.error:.2e}"


def run_gradients(
    write: Write, *arrays: NDArray[Any], seed: NDArray[Any], opset: int = 18
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Output and gradients of sum(seed * write(...)) on ONNX Runtime, in the arrays' own types."""
    from cnnkit.runtime.device import onnxruntime

    builder = Builder(opset=opset)
    feeds = {f"x{index}": np.asarray(array) for index, array in enumerate(arrays)}
    out = write(builder.op, *inputs_of(builder, feeds))
    weights = builder.input("seed", seed.shape, seed.dtype)
    wrt = [name for name, array in feeds.items() if array.dtype.kind == "f"]
    found = gradients(builder, out, wrt, seed=weights)
    for name in [out, *found.values()]:
        builder.output(name)
    session = onnxruntime().InferenceSession(
        builder.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    known = {value.name for value in session.get_inputs()}
    value, *rest = session.run(None, {k: v for k, v in {**feeds, "seed": seed}.items() if k in known})
    return value, rest


def assert_as_torch(
    write: Write,
    in_torch: Callable[..., Any],
    *arrays: NDArray[Any],
    opset: int = 18,
    tolerance: float = 1e-5,
) -> None:
    """Output and gradients in float32 on ONNX Runtime equal torch's; the calling test is marked `oracle`."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(array, requires_grad=array.dtype.kind == "f") for array in arrays]
    expected = in_torch(*tensors)
    seed = np.random.default_rng(7).standard_normal(tuple(expected.shape)).astype(np.float32)
    expected.backward(torch.tensor(seed))
    value, found = run_gradients(write, *arrays, seed=seed, opset=opset)
    wanted = [tensor.grad.numpy() for tensor in tensors if tensor.requires_grad]
    for got, want in zip([value, *found], [expected.detach().numpy(), *wanted], strict=True):
        assert np.abs(got - want).max() <= tolerance * max(1e-30, np.abs(want).max())
