"""The contract of a gradient rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from cnnkit import Builder
from cnnkit.graphs.autodiff.check import slopes
from cnnkit.graphs.builder import IR_VERSION
from cnnkit.testing.slopes import assert_right


def check_gradient_rule(
    operator: str,
    rule: Callable[..., Any],
    *arrays: Any,
    opset: int = 18,
    computes: Callable[..., Any] | None = None,
    **attributes: Any,
) -> None:
    """Assert that a gradient rule predicts how the operator's output changes, in float64.

    `arrays` are the operator's inputs, None for one that is left out. Floating-point arrays are moved along
    random directions; arrays of integers and truth values are constants. Choose numbers that are not at a
    kink of the operator. `computes(*arrays, **attributes)` says in numpy what an operator does that onnx's
    reference implementation does not know.

        check_gradient_rule("Elu", elu, np.array([-2.0, 0.5, 3.0]), alpha=0.7)
    """
    domain, _, kind = operator.rpartition(".")
    given = {
        f"x{index}": a.astype(np.float64) if (a := np.asarray(array)).dtype.kind == "f" else a
        for index, array in enumerate(arrays)
        if array is not None
    }
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    feeds = {name: array for name, array in given.items() if array.dtype.kind == "f"}
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], name="checked", domain=domain, **attributes)],
        "check",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [],
        [numpy_helper.from_array(array, name) for name, array in given.items() if name not in feeds],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    builder = Builder.extending(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))
    known = {operator: computes} if computes else None
    found = slopes(builder, "y", feeds, list(feeds), {operator: rule}, computes=known)
    assert_right(found, lambda tensor: f"with respect to input {tensor[1:]} of {operator}")
