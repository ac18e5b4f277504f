"""The driver: what it differentiates, how it adds up, what it refuses, and that its graphs are clean."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.tensors import Tensor
from cnnkit.runtime.device import onnxruntime

Array = NDArray[Any]


def random(*shape: int, dtype: DTypeLike = np.float64) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def finished(builder: Builder, *outputs: str) -> onnx.ModelProto:
    for name in outputs:
        builder.output(name)
    return builder.model(only=outputs)


def run(builder: Builder, outputs: Mapping[str, str], **feeds: Any) -> dict[str, Array]:
    """The values of tensors, by the keys of `outputs`, in onnx's reference implementation."""
    return evaluate(finished(builder, *outputs.values()), outputs, **feeds)


def evaluate(model: onnx.ModelProto, outputs: Iterable[str], **feeds: Any) -> dict[str, Array]:
    needed = {value.name: np.asarray(feeds[value.name]) for value in model.graph.input}
    return dict(zip(outputs, ReferenceEvaluator(model).run(None, needed), strict=True))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def network(
    batch: int | str = 2, dtype: DTypeLike = np.float32
) -> tuple[Builder, Tensor, tuple[Tensor, Tensor], Tensor]:
    """A builder, its input, two weights, and a loss: a little of everything, and smooth but for one Relu."""
    builder = Builder()
    op = builder.op
    x = builder.input("x", (batch, 3, 4), dtype)
    scale = builder.constant(random(3, 1, dtype=dtype), "scale")
    shift = builder.constant(random(4, dtype=dtype) / 10, "shift")
    hidden = op.Relu(op.Add(op.Mul(x, scale, name="scaled"), shift, name="shifted"), name="hidden")
    flat = op.Reshape(hidden, op.Concat(op.Shape(x, end=1), [-1], axis=0), name="flat")
    probabilities = op.Sigmoid(op.Sub(flat, op.Gather(flat, np.array(0), axis=0)), name="probabilities")
    return builder, x, (scale, shift), op.Mul(probabilities, probabilities, name="loss")


# ---- adding up


def test_a_tensor_that_is_read_twice() -> None:
    """d/dx (x² + 3x + sin x), where x is read by four nodes."""
    builder = Builder()
    op = builder.op
    x = builder.input("x", (3,), np.float64)
    y = op.Add(op.Add(op.Mul(x, x), op.Mul(x, 3.0)), op.Sin(x))
    found = run(builder, gradients(builder, y, [x]), x=[1.0, 2.0, 3.0])
    np.testing.assert_allclose(found["x"], [5 + np.cos(1), 7 + np.cos(2), 9 + np.cos(3)])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1), (2, 1, 1), (2, 3, 4), (1, 3, 1)])
def test_a_broadcast_tensor_has_a_gradient_of_its_own_shape(shape: tuple[int, ...]) -> None:
    builder = Builder()
    x, b = builder.input("x", (2, 3, 4), np.float64), builder.input("b", shape, np.float64)
    y = builder.op.Mul(x, b)
    feeds = {"x": random(2, 3, 4), "b": np.ones(shape)}
    found = run(builder, gradients(builder, y, [x, b]), **feeds)
    extra = tuple(range(3 - len(shape)))
    expected = feeds["x"].sum(axis=extra)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    np.testing.assert_allclose(found["b"], expected.sum(axis=axes, keepdims=True).reshape(shape))
    assert np.array_equal(found["x"], np.ones((2, 3, 4)))


def test_fixed_numbers_have_no_gradient() -> None:
    """d(x·[x])/dx = [x], where [x] is x itself to whoever reads it."""
    b = Builder()
    x = b.input("x", (2,))
    fixed = b.op.fixed(b.op.Mul(x, x))
    product = b.op.Mul(x, fixed)
    assert b.op.Identity(b.op.Mul(x, x)) != fixed
    found = gradients(b, product, ["x"])
    values = run(b, {"y": product, "dx": found["x"]}, x=np.array([2, 3], np.float32))
    assert values["y"].tolist() == [8, 27] and values["dx"].tolist() == [4, 9]
    with pytest.raises(ModelError, match="does not depend"):
        gradients(b, fixed, ["x"])


def test_a_seed_weighs_the_numbers() -> None:
    builder = Builder()
    x, seed = builder.input("x", (3,), np.float64), builder.input("seed", (3,), np.float64)
    found = gradients(builder, builder.op.Mul(x, x), [x], seed=seed)
    assert run(builder, found, x=[1.0, 2, 3], seed=[1.0, 0, -2])["x"].tolist() == [2, 0, -12]


def test_tensors_that_lie_behind_one_another() -> None:
    """y = 3 x, z = y² + x: the gradient of x goes through y too, that of y stops there."""
    builder = Builder()
    op = builder.op
    x = builder.input("x", (2,), np.float64)
    y = op.Mul(x, 3.0, name="y")
    z = op.Add(op.Mul(y, y), x, name="z")
    found = gradients(builder, z, [y, x, z, y])
    assert list(found) == ["y", "x", "z"] and list(found.values()) == [
        "gradient/y",
        "gradient/x",
        "gradient/z",
    ]
    values = run(builder, found, x=[1.0, 2.0])
    assert {name: value.tolist() for name, value in values.items()} == {
        "y": [6, 12], "x": [19, 37], "z": [1, 1]
    }  # fmt: skip


# ---- only what is needed


def test_frozen_weights_leave_no_node() -> None:
    builder, x, _, loss = network()
    frozen = operators(finished(builder, gradients(builder, loss, [x])[x]))
    builder, x, weights, loss = network()
    trained = operators(finished(builder, *gradients(builder, loss, [x, *weights]).values()))
    # a Mul for the scale, a sum over the broadcast axes of each weight, and the outputs
    assert trained - frozen == {"Mul": 1, "ReduceSum": 2, "Squeeze": 2, "Identity": 2}
    assert not frozen - trained


def test_nothing_below_an_inner_tensor_is_differentiated() -> None:
    builder, _, _, loss = network()
    hidden = builder.tensor("hidden")
    model = finished(builder, gradients(builder, loss, [hidden])[hidden])
    names = [node.name for node in model.graph.node]
    assert not [
        name
        for name in names
        if name.startswith(("gradient/scaled/", "gradient/shifted/", "gradient/hidden/"))
    ]
    assert [name for name in names if name.startswith("gradient/flat/")]


def test_what_has_no_rule_is_no_matter_off_the_path() -> None:
    """Below an inner tensor, and behind an operator through which no gradient passes, anything may stand."""
    builder = Builder()
    op = builder.op
    x = builder.input("x", (4,))
    unique = op.Unique(x, output=4)[0]
    inner = op.Mul(x, op.Cast(op.Size(unique), to=1), name="inner")
    y = op.Add(inner, op.Floor(op.Mul(inner, 2.0)))
    assert (
        run(builder, gradients(builder, y, [inner]), x=np.arange(4.0, dtype="f"))["inner"].tolist() == [1] * 4
    )


# ---- clean graphs


def both_gradients() -> onnx.ModelProto:
    builder, x, weights, loss = network("batch")
    found = gradients(builder, loss, [x, *weights])
    return finished(builder, loss, *found.values())


def test_two_builds_are_the_same_bytes() -> None:
    assert both_gradients().SerializeToString() == both_gradients().SerializeToString()


def test_no_node_is_there_twice() -> None:
    seen = Counter()
    for node in both_gradients().graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        for field in ("name", "output"):
            bare.ClearField(field)
        seen[bare.SerializeToString(deterministic=True)] += 1
    assert set(seen.values()) == {1}


def test_the_graph_is_checked_in_full_and_runs() -> None:
    model = both_gradients()
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": random(2, 3, 4, dtype=np.float32)}
    for found, expected in zip(
        session.run(None, feeds), ReferenceEvaluator(model).run(None, feeds), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_names_say_where_a_node_comes_from() -> None:
    builder, x, _, loss = network()
    gradients(builder, loss, [x])
    assert any(node.name.startswith("gradient/hidden/Where") for node in builder.nodes)


def test_an_open_batch() -> None:
    """One graph gives for every batch what the graph of that batch gives."""
    builder, x, weights, loss = network("batch")
    found = gradients(builder, loss, [x, *weights])
    assert builder.tensor(found[x]).shape == (None, 3, 4)
    model = finished(builder, *found.values())
    for batch in (1, 2, 5):
        values = evaluate(model, found, x=random(batch, 3, 4, dtype=np.float32))
        fixed, x, weights, loss = network(batch)
        expected = run(fixed, gradients(fixed, loss, [x, *weights]), x=random(batch, 3, 4, dtype=np.float32))
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 5e-3), (np.float64, 1e-6)])
def test_other_precisions(dtype: DTypeLike, tolerance: float) -> None:
    """The gradient has the type of its tensor, and differs from that in float32 by rounding only."""
    values = []
    for kind in (dtype, np.float32):
        builder, x, weights, loss = network(2, kind)
        values.append(run(builder, gradients(builder, loss, [x, *weights]), x=random(2, 3, 4, dtype=kind)))
    for name, value in values[0].items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, values[1][name], atol=tolerance)


# ---- used more than once


def test_two_losses_on_one_builder() -> None:
    builder = Builder()
    op = builder.op
    x = builder.input("x", (2,), np.float64)
    square, cube = op.Mul(x, x), op.Mul(op.Mul(x, x), x)
    first, second = gradients(builder, square, [x])[x], gradients(builder, cube, [x])[x]
    assert (first, second) == ("gradient/x", "gradient/x_0")
    values = run(builder, {"first": first, "second": second}, x=[1.0, 2.0])
    assert values["first"].tolist() == [2, 4] and values["second"].tolist() == [3, 12]
    assert len({node.name for node in builder.nodes}) == len(builder.nodes)


def test_the_gradient_of_a_gradient() -> None:
    """The product of the Hessian of sum(sin(x) x_0) with a vector, and a third derivative."""
    builder = Builder()
    op = builder.op
    x, vector = builder.input("x", (2,), np.float64), builder.input("vector", (2,), np.float64)
    y = op.ReduceSum(op.Mul(op.Sin(x), op.Slice(x, [0], [1])))
    slope = gradients(builder, y, [x])[x]
    product = gradients(builder, slope, [x], seed=vector)[x]
    a, b = 0.5, 1.5
    value = run(builder, {"product": product}, x=[a, b], vector=[2.0, 3.0])["product"]
    hessian = [[2 * np.cos(a) - a * np.sin(a), np.cos(b)], [np.cos(b), -a * np.sin(b)]]
    np.testing.assert_allclose(value, np.array(hessian) @ [2, 3])

    z = builder.input("z", (), np.float64)
    power = z
    for _ in range(3):
        power = op.Mul(power, z)
    for _ in range(3):
        power = gradients(builder, power, [z])[z]
    assert run(builder, {"third": power}, z=2.0)["third"] == 48


# ---- rules


def test_a_given_rule_wins() -> None:
    """Also over cnnkit's own, and for operators that are flat by themselves: a straight-through Round."""

    def straight(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
        return (dy,)

    def guided(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
        return (op.Where(op.Greater(x, 0.0), op.Relu(dy), 0.0),)

    builder = Builder()
    op = builder.op
    x = builder.input("x", (3,), np.float64)
    y = op.Mul(op.Relu(op.Round(x)), -2.0)
    with pytest.raises(ModelError, match=r"'Mul_0' does not depend on 'x' in a way that has a gradient"):
        gradients(builder, y, [x])
    passed = gradients(builder, y, [x], rules={"Round": straight})[x]
    blocked = gradients(builder, y, [x], rules={"Round": straight, "Relu": guided})[x]
    values = run(builder, {"passed": passed, "blocked": blocked}, x=[0.7, -0.7, 1.2])
    assert values["passed"].tolist() == [-2, 0, -2] and values["blocked"].tolist() == [0, 0, 0]


def foreign(*nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (2,), **more: Any) -> onnx.ModelProto:
    """A model from x to y, with an operator set of the domain acme."""
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 3)]
    return helper.make_model(graph, opset_imports=imports, **more)


@pytest.mark.parametrize("wrt, appended", [(["x"], False), (["x", "w"], True), (["w"], True)])
def test_a_gradient_that_is_a_function_is_only_appended_when_it_is_needed(
    wrt: list[str], appended: bool
) -> None:
    def product(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
        return op.Mul(dy, b), lambda: op.Mul(dy, op.Neg(op.Neg(a)))

    builder = Builder()
    x, w = builder.input("x", (2, 3), np.float64), builder.input("w", (3,), np.float64)
    found = gradients(builder, builder.op.Mul(x, w), wrt, rules={"Mul": product})
    assert ("Neg" in {node.op_type for node in builder.nodes}) is appended
    feeds = {"x": random(2, 3), "w": random(3)}
    expected = {"x": np.broadcast_to(feeds["w"], (2, 3)), "w": feeds["x"].sum(axis=0)}
    for name, value in run(builder, found, **feeds).items():
        np.testing.assert_allclose(value, expected[name])


def test_a_missing_rule_is_named() -> None:
    builder = Builder.extending(foreign(helper.make_node("Hardmax", ["x"], ["y"], name="last")))
    with pytest.raises(ModelError) as refused:
        gradients(builder, "y", ["x"])
    assert str(refused.value) == (
        "there is no gradient rule for the operator Hardmax (opset 20), which the node 'last' uses; a plugin "
        "adds one under the entry point 'Hardmax' of cnnkit.gradient_rules (see docs/plugins.md)"
    )


def test_an_operator_of_another_domain_is_not_silently_flat() -> None:
    """Nothing is known of its output, not even the type; so its share of the gradient is asked for."""
    swish = helper.make_node("Round", ["x"], ["s"], domain="acme")
    builder = Builder.extending(foreign(swish, helper.make_node("Add", ["s", "x"], ["y"])))
    with pytest.raises(ModelError, match=r"operator acme\.Round \(opset 3\), which the node 's' uses"):
        gradients(builder, "s", ["x"], seed=builder.constant(np.ones(2, np.float32)))
    double = {"acme.Round": lambda op, node, dy, x: (op.Mul(dy, 2.0),)}
    found = gradients(builder, "s", ["x"], seed=builder.constant(np.ones(2, np.float32)), rules=double)
    assert builder.tensor(found["x"]).shape == (2,)


# ---- refusals


def test_a_tensor_without_influence() -> None:
    builder = Builder()
    op = builder.op
    x, other, whole = (
        builder.input("x", (2,)),
        builder.input("other", (2,)),
        builder.input("n", (2,), np.int64),
    )
    y = op.Add(op.Mul(x, op.Cast(whole, to=1)), op.Cast(op.Shape(other), to=1), name="y")
    later = op.Relu(y)
    for name in ("other", "n", later):
        with pytest.raises(
            ModelError, match=f"^'y' does not depend on '{name}' in a way that has a gradient$"
        ):
            gradients(builder, y, [x, name])
    with pytest.raises(ModelError, match="does not depend on 'x' in a way"):
        gradients(builder, op.ArgMax(x), [x])
    with pytest.raises(ModelError, match="the graph has no tensor 'nowhere'"):
        gradients(builder, y, ["nowhere"])


def branches(name: str) -> dict[str, onnx.GraphProto]:
    """The two sides of an If, each of which reads `name` from outside."""
    return {
        f"{side}_branch": helper.make_graph(
            [helper.make_node(operator, [name], [side])],
            side,
            [],
            [helper.make_tensor_value_info(side, TensorProto.FLOAT, (2,))],
        )
        for side, operator in (("then", "Neg"), ("else", "Exp"))
    }


def test_a_branch_off_the_path_is_left_alone_and_on_the_path_refused() -> None:
    builder = Builder()
    op = builder.op
    x, weights = builder.input("x", (2,)), builder.input("w", (2,))
    condition = builder.input("condition", (), np.bool_)
    y = op.Mul(x, op.If(condition, **branches("w")))
    found = gradients(builder, y, [x])
    assert run(builder, found, x=np.ones(2, "f"), w=np.array([1, 2], "f"), condition=True)["x"].tolist() == [
        -1,
        -2,
    ]
    with pytest.raises(ModelError, match=r"no gradient rule for the operator If"):
        gradients(builder, y, [weights])


def test_a_loop_on_the_path_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["state", "state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (2,)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (2,)),
        ],
    )
    builder = Builder()
    x = builder.input("x", (2,))
    y = builder.op.Loop(np.array(3), None, x, body=body)
    with pytest.raises(ModelError, match=r"no gradient rule for the operator Loop"):
        gradients(builder, y, [x], seed=builder.input("seed", (2,)))


def test_sizes_that_depend_on_the_numbers_are_read_when_it_runs_but_the_rank_must_be_known() -> None:
    builder = Builder()
    op = builder.op
    x = builder.input("x", (4,), np.float64)
    chosen = op.Compress(x, builder.input("keep", (4,), np.bool_), axis=0)
    found = gradients(builder, op.Mul(chosen, chosen), [chosen])
    keep = [True, False, True, True]
    assert run(builder, found, x=[1.0, 2, 3, 4], keep=keep)[chosen].tolist() == [2, 6, 8]

    vague = op.Unsqueeze(x, builder.input("axes", ("n",), np.int64), name="vague")
    with pytest.raises(ModelError, match="the shape of the tensor 'vague' does not follow from the graph"):
        gradients(builder, vague, [x])


# ---- foreign models


def test_a_local_function_is_inlined() -> None:
    function = helper.make_function(
        "acme",
        "Square",
        ["a"],
        ["b"],
        [helper.make_node("Mul", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    model = foreign(
        helper.make_node("Square", ["x"], ["s"], domain="acme"),
        helper.make_node("Square", ["s"], ["y"], domain="acme"),
        functions=[function],
    )
    builder = Builder.extending(model)
    assert {node.op_type for node in builder.nodes} == {"Mul"}
    assert run(builder, gradients(builder, "y", ["x"]), x=np.array([1, 2], "f"))["x"].tolist() == [4, 32]


def test_the_long_name_of_the_standard_domain() -> None:
    model = foreign(helper.make_node("Mul", ["x", "x"], ["y"], domain="ai.onnx"))
    model.opset_import[0].domain = "ai.onnx"
    builder = Builder.extending(model)
    assert builder.version() == builder.version("ai.onnx") == 20
    assert builder.tensor("y").shape == (2,)
    assert run(builder, gradients(builder, "y", ["x"]), x=np.array([1, 2], "f"))["x"].tolist() == [2, 4]


def test_sizes_that_come_out_of_the_graph() -> None:
    """Shape -> Gather -> Concat -> Reshape, as exporters write a flatten, in a graph of any batch."""
    builder = Builder.extending(
        foreign(
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Constant", [], ["zero"], value_int=0),
            helper.make_node("Gather", ["sizes", "zero"], ["batch"]),
            helper.make_node("Constant", [], ["front"], value_ints=[0]),
            helper.make_node("Unsqueeze", ["batch", "front"], ["first"]),
            helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
            helper.make_node("Concat", ["first", "rest"], ["wanted"], axis=0),
            helper.make_node("Reshape", ["x", "wanted"], ["flat"]),
            helper.make_node("Mul", ["flat", "flat"], ["y"]),
            shape=("N", 2, 3),
        )
    )
    found = gradients(builder, "y", ["x"])
    assert builder.tensor("flat").shape == (None, 6) and builder.tensor(found["x"]).shape == (None, 2, 3)
    model = finished(builder, found["x"])
    for batch in (1, 4):
        x = random(batch, 2, 3, dtype=np.float32)
        assert np.array_equal(evaluate(model, found, x=x)["x"], 2 * x)


@pytest.mark.parametrize(
    "returned, sentence",
    [
        (lambda op, dy: dy, r"rule of Relu returned 'gradient/.*'; it has to return a tuple"),
        (lambda op, dy: None, "rule of Relu returned None; it has to return a tuple"),
        (lambda op, dy: ("dy",), "rule of Relu returned a gradient that is no tensor: 'dy'"),
        (lambda op, dy: (op.Cast(dy, to=11),), "of type float64 for 'x', which is float32"),
        (lambda op, dy: (op.Transpose(dy),), r"shape \(3, 2\) for 'x', whose shape is \(2, 3\)"),
        (lambda op, dy: (op.ReduceSum(dy, keepdims=0),), r"shape \(\) for 'x', whose shape is \(2, 3\)"),
    ],
)
def test_what_a_rule_returns_wrongly_is_one_sentence(returned: Any, sentence: str) -> None:
    builder = Builder()
    y = builder.op.Relu(builder.input("x", (2, 3)))
    with pytest.raises(ModelError, match=sentence):
        gradients(builder, y, ["x"], rules={"Relu": lambda op, node, dy, x: returned(op, dy)})
