"""A function that is linear in each argument: the exact test that its gradients allow."""

import numpy as np
from numpy.typing import NDArray
from rulecheck import Write

from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.reference import Reference
from cnnkit.graphs.builder import Builder


def assert_multilinear(write: Write, *arrays: NDArray, opset: int = 18, open_batch: bool = False) -> None:
    """For f linear in x, <f(x), u> = <x, gradient>; here for each argument, in float64 and to 1e-10.

    With `open_batch` the first size of the first array stays open.
    """
    random = np.random.default_rng(3)
    builder = Builder(opset=opset)
    feeds = {f"x{index}": random.standard_normal(array.shape) for index, array in enumerate(arrays)}
    tensors = [builder.input(name, array.shape, array.dtype) for name, array in feeds.items() if name != "x0"]
    shape = ["batch", *arrays[0].shape[1:]] if open_batch else arrays[0].shape
    out = write(builder.op, builder.input("x0", shape, np.float64), *tensors)
    weights = builder.input("u", ["batch", *out.shape[1:]] if open_batch else out.shape, np.float64)
    found = gradients(builder, out, feeds, seed=weights)
    for name in [out, *found.values()]:
        builder.output(name)
    (value,) = Reference(builder.model(only=[out])).run(feeds).values()
    feeds["u"] = random.standard_normal(value.shape)
    results = Reference(builder.model()).run(feeds)
    product, scale = np.sum(value * feeds["u"]), np.linalg.norm(value) * np.linalg.norm(feeds["u"])
    for name, gradient in found.items():
        assert results[gradient].shape == feeds[name].shape
        assert abs(np.sum(results[gradient] * feeds[name]) - product) <= 1e-10 * max(scale, 1e-3), name
