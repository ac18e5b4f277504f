"""Writing ONNX graphs as Python: `features = b.op.Relu(b.op.Conv(picture, kernel, bias))`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper, numpy_helper

IR_VERSION = 10
"""Of the files that cnnkit writes: any ONNX Runtime since 1.18 reads it."""

Shape = Sequence[int | str | None]


class Builder:
    """Appends nodes one by one; every tensor is its name.

    `op.<Operator>(*inputs, name=..., output=..., **attributes)` returns the name of the node's output, or a
    tuple of names when `output` is a list. An input may be a name, an array (it becomes a constant), or None
    for an optional input that is left out.
    """

    def __init__(self, name: str = "graph", opset: int = 17) -> None:
        self._name = name
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()
        self.op = _Operators(self._append)

    def input(self, name: str, shape: Shape, dtype: DTypeLike = np.float32) -> str:
        """Declare an input; a size is a number, a symbol, or None."""
        self._inputs.append(_declaration(name, shape, dtype))
        return self._claim(name)

    def constant(self, array: Any, name: str | None = None) -> str:
        """Keep an array in the graph. A plain float, or floats in a list, become float32."""
        array = np.asarray(array)
        if name is None:
            name = self._fresh("constant")
        self._initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        )
        return self._claim(name)

    def output(self, name: str, shape: Shape | None = None, dtype: DTypeLike = np.float32) -> str:
        """Declare a tensor as an output of the whole graph."""
        self._outputs.append(_declaration(name, shape, dtype))
        return name

    def model(self, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The finished model, checked by onnx."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, initializer=self._initializers
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self._opset)],
            producer_name="cnnkit",
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model)
        return model

    def _append(
        self,
        operator: str,
        inputs: Sequence[str | NDArray[Any] | float | None],
        name: str | None,
        output: str | Sequence[str] | None,
        attributes: Mapping[str, Any],
    ) -> Any:
        names = [
            value if isinstance(value, str) else "" if value is None else self.constant(value)
            for value in inputs
        ]
        if output is None:
            output = name if name and name not in self._names else self._fresh(operator)
        outputs = [output] if isinstance(output, str) else list(output)
        node = helper.make_node(operator, names, outputs, name=name or outputs[0], **attributes)
        self._nodes.append(node)
        for tensor in outputs:
            self._claim(tensor)
        return outputs[0] if isinstance(output, str) else tuple(outputs)

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise ValueError(f"the graph has two tensors called '{name}'")
        self._names.add(name)
        return name

    def _fresh(self, stem: str) -> str:
        return next(name for i in range(len(self._names) + 1) if (name := f"{stem}_{i}") not in self._names)


class _Operators:
    def __init__(self, append: Callable[..., Any]) -> None:
        self._append = append

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        def append(
            *inputs: str | NDArray[Any] | float | None,
            name: str | None = None,
            output: str | Sequence[str] | None = None,
            **attributes: Any,
        ) -> Any:
            return self._append(operator, inputs, name, output, attributes)

        return append


def _declaration(name: str, shape: Shape | None, dtype: DTypeLike) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
