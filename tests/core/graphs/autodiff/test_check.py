"""The check of gradients: what is wrong is caught, what is right passes, and kinks are no false alarm."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from cnnkit.errors import ModelError, UsageError
from cnnkit.graphs.autodiff.check import Slope, slopes
from cnnkit.graphs.autodiff.layer_check import LayerCheck, LayerChecker
from cnnkit.graphs.autodiff.reference import CannotCompute, Reference
from cnnkit.graphs.autodiff.rules import RULES
from cnnkit.graphs.autodiff.windows import cut
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.model import Model
from cnnkit.host.gradient_check import check_gradient
from cnnkit.host.host import Host
from cnnkit.images.preprocessing import Preprocessing
from cnnkit.runtime.device import onnxruntime
from cnnkit.runtime.slope import whole_slopes
from cnnkit.testing import check_gradient_rule, make_tiny_model

Array = NDArray[Any]
Rules = Mapping[str, Callable[..., Any]]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def slopes_of(
    operator: str, *arrays: Array, rules: Rules | None = None, seed: int = 0, **attributes: Any
) -> list[Slope]:
    builder = Builder()
    feeds = {f"x{index}": array for index, array in enumerate(arrays)}
    inputs = [builder.input(name, array.shape, array.dtype) for name, array in feeds.items()]
    out = builder.append(operator, inputs, **attributes)
    return slopes(builder, out, feeds, list(feeds), rules, seed=seed)


def turned(op: Any, node: Any, dy: Any, a: Any, b: Any) -> Any:
    return op.MatMul(dy, b), op.MatMul(op.Transpose(a, perm=[1, 0]), dy)


def scaled(factor: float) -> Callable[..., Any]:
    def rule(op: Any, node: Any, dy: Any, a: Any, b: Any) -> Any:
        first, second = RULES["MatMul"](op, node, dy, a, b)
        return op.Mul(first, factor), second

    return rule


def averaged(op: Any, node: Any, dy: Any, a: Any, b: Any) -> Any:
    """Forgets that b was broadcast: the mean of what should be summed."""
    return op.Mul(dy, b), op.ReduceMean(op.Mul(dy, a), [0], keepdims=1)


def unsummed(op: Any, node: Any, dy: Any, a: Any, b: Any) -> Any:
    return op.Mul(dy, b), op.Slice(op.Mul(dy, a), [0], [2], [1])


WRONG = {
    "the sign": ("MatMul", scaled(-1.0), 1.999, 2.001),
    "a thousandth": ("MatMul", scaled(1.001), 0.99e-3, 1.01e-3),
    "a hundred-thousandth more than allowed": ("MatMul", scaled(1.0001), 0.9e-4, 1.1e-4),
    "a constant": ("MatMul", scaled(0.0), 0.999, 1.001),
}


@pytest.mark.parametrize("what", WRONG)
def test_how_wrong_is_said(what: str) -> None:
    """The error of a factor 1 + e is e, along the gradient's direction, and less along others."""
    operator, rule, low, high = WRONG[what]
    # one number: every direction is the gradient's own
    found = slopes_of(operator, np.array([[1.7]]), np.array([[-0.3]]), rules={operator: rule})
    assert [slope.good for slope in found] == [False, False, True, True]
    worst = max(abs(s.measured - s.predicted) / abs(s.measured) for s in found[:2])
    assert low <= worst <= high


def test_a_transposed_factor() -> None:
    a, b = noise(4, 4), noise(4, 4, seed=1)
    right = slopes_of("MatMul", a, b)
    assert len(right) == 4 and all(slope.good and slope.error < 1e-8 for slope in right)
    wrong = slopes_of("MatMul", a, b, rules={"MatMul": turned})
    assert [slope.good for slope in wrong] == [False, False, True, True]


def test_a_forgotten_broadcast() -> None:
    a, b = noise(5, 3), noise(1, 3, seed=1)
    assert all(slope.good for slope in slopes_of("Mul", a, b))
    assert [s.good for s in slopes_of("Mul", a, b, rules={"Mul": averaged})] == [True, True, False, False]
    with pytest.raises(ModelError, match="returned a gradient of shape"):
        slopes_of("Mul", a, b, rules={"Mul": unsummed})


@pytest.mark.parametrize("size", [1e-6, 1, 1e6])
def test_numbers_of_any_size(size: float) -> None:
    for name in ("Mul", "Div", "Sub"):
        found = slopes_of(name, size * (2 + noise(7) / 9), 3 * size * (2 + noise(7, seed=1) / 9))
        assert all(slope.good for slope in found), name


KINKS = {
    "Relu": lambda x: slopes_of("Relu", x),
    "Abs": lambda x: slopes_of("Abs", x),
    "LeakyRelu": lambda x: slopes_of("LeakyRelu", x, alpha=0.2),
    "Clip": lambda x: slopes_of("Clip", x + 6, np.array(-3.0), np.array(6.0))[:2],
    "MaxPool": lambda x: slopes_of("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_no_false_alarm(name: str, seed: int) -> None:
    """A quarter of the numbers lies at the kink, or so near that a step crosses it."""
    x = noise(2, 3, 8, 8, seed=seed)
    near = np.random.default_rng(seed).random(x.shape)
    x[near < 0.1] = 0
    x[(0.1 < near) & (near < 0.2)] *= 1e-9
    found = KINKS[name](x)
    assert all(slope.seen and slope.error < 1e-8 for slope in found), found
    assert found[0].kinks > 0


def test_a_wrong_rule_is_caught_beside_kinks() -> None:
    x = noise(2, 3, 8, 8)
    x[:, :, :3] = 0
    wrong: Any = lambda op, node, dy, x: (op.Where(op.Greater(x, 0.0), op.Mul(dy, 1.001), 0.0),)  # noqa: E731
    found = slopes_of("Relu", x, rules={"Relu": wrong})
    assert all(slope.seen and not slope.good for slope in found)


def test_only_kinks_is_not_good() -> None:
    found = slopes_of("Relu", np.zeros((3, 4)))
    assert all(slope.kinks == slope.outputs == 12 and not slope.good for slope in found)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Exp", "Softplus", "Erf", "Sin"])
def test_bends_are_no_kinks(name: str) -> None:
    found = slopes_of(name, noise(4, 500) * 2)
    assert all(slope.good for slope in found) and found[0].kinks == 0


def one_node(operator: str, arrays: Mapping[str, Array], **attributes: Any) -> onnx.ModelProto:
    domain, _, kind = operator.rpartition(".")
    node = helper.make_node(kind, list(arrays), ["y"], domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, a.shape) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets)


def test_erf_is_exact() -> None:
    x = noise(50)
    assert (
        np.abs(Reference(one_node("Erf", {"x": x})).run({"x": x})["y"] - [math.erf(v) for v in x]).max()
        < 1e-15
    )


@pytest.mark.oracle
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_as_torch(approximate: str) -> None:
    torch = pytest.importorskip("torch")
    x = noise(50)
    model = one_node("Gelu", {"x": x}, approximate=approximate)
    model.opset_import[0].version = 20
    expected = torch.nn.functional.gelu(torch.tensor(x), approximate=approximate).numpy()
    assert np.abs(Reference(model).run({"x": x})["y"] - expected).max() < 1e-14


@pytest.mark.oracle
@pytest.mark.parametrize(
    "groups, stride, dilation, pad, extra",
    [(1, 1, 1, 0, 0), (2, 2, 1, 1, 1), (2, 3, 2, 1, 0), (6, 2, 1, 1, 1)],
)
def test_transposed_convolution_as_torch(
    groups: int, stride: int, dilation: int, pad: int, extra: int
) -> None:
    torch = pytest.importorskip("torch")
    arrays = {"x": noise(2, 6, 5, 7), "kernel": noise(6, 4, 3, 3, seed=1), "bias": noise(4 * groups, seed=2)}
    attributes: dict[str, Any] = {
        "group": groups,
        "strides": [stride] * 2,
        "dilations": [dilation] * 2,
        "pads": [pad] * 4,
        "output_padding": [extra] * 2,
    }
    found = Reference(one_node("ConvTranspose", arrays, **attributes)).run(arrays)["y"]
    expected = torch.nn.functional.conv_transpose2d(
        *map(torch.tensor, arrays.values()),
        stride=stride,
        padding=pad,
        output_padding=extra,
        groups=groups,
        dilation=dilation,
    )
    assert np.abs(found - expected.numpy()).max() < 1e-12


def as_onnx_runtime(operator: str, arrays: Mapping[str, Array], opset: int = 18, **attributes: Any) -> None:
    """The operator in float64 is that of ONNX Runtime; a MaxPool also says where it found what."""
    model = one_node(operator, arrays, **attributes)
    model.opset_import[0].version = opset
    if operator == "MaxPool":
        model.graph.node[0].output.append("places")
        model.graph.output.append(helper.make_tensor_value_info("places", onnx.TensorProto.INT64, None))
    found = Reference(model).run(arrays)
    for value in [*model.graph.input, model.graph.output[0]]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model.ir_version = 8
    expected = on_cpu(model, {name: array.astype(np.float32) for name, array in arrays.items()})
    for name, value in expected.items():
        assert found[name].shape == value.shape and np.abs(found[name] - value).max() < 1e-5, name


@pytest.mark.parametrize(
    "padding", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [11, 9]}]
)
def test_transposed_convolution_as_onnx_runtime(padding: dict[str, Any]) -> None:
    arrays = {"x": noise(1, 2, 5, 4), "kernel": noise(2, 3, 3, 4, seed=1)}
    as_onnx_runtime("ConvTranspose", arrays, strides=[2, 2], **padding)


POOLS: list[dict[str, Any]] = [
    {"strides": [1, 1]},
    {"strides": [1, 1], "pads": [1, 1, 1, 1]},
    {"strides": [2, 3], "pads": [1, 0, 0, 1]},
    {"strides": [2, 2], "ceil_mode": 1},
    {"strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    {"strides": [3, 3], "ceil_mode": 1, "pads": [0, 0, 1, 1]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [1, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [1, 1], "dilations": [2, 1], "pads": [1, 1, 1, 1]},
]


@pytest.mark.parametrize("attributes", POOLS, ids=str)
@pytest.mark.parametrize("kernel", [[3, 3], [2, 3]])
def test_pools_as_onnx_runtime(kernel: list[int], attributes: dict[str, Any]) -> None:
    for size in [(6, 8), (7, 7)]:
        x = {"x": noise(2, 3, *size)}
        as_onnx_runtime("MaxPool", x, kernel_shape=kernel, **attributes)
        as_onnx_runtime("MaxPool", x, kernel_shape=kernel, storage_order=1, **attributes)
        for count in (0, 1):
            as_onnx_runtime("AveragePool", x, 19, kernel_shape=kernel, count_include_pad=count, **attributes)


def test_what_nobody_computes() -> None:
    x = {"x": np.arange(3.0)}
    with pytest.raises(CannotCompute, match="cannot run it"):
        Reference(one_node("acme.Scale", x, by=2.0))
    known = Reference(one_node("acme.Scale", x, by=2.0), {"acme.Scale": lambda x, by: by * x})
    assert known.run(x)["y"].tolist() == [0, 2, 4]
    with pytest.raises(CannotCompute, match="not finite"):
        slopes_of("Log", np.zeros(3))


def swish(op: Any, node: Any, dy: Any, x: Any) -> Any:
    s = op.Sigmoid(op.Mul(x, node.attribute("alpha", 1.702)))
    rest = op.Mul(op.Mul(x, node.attribute("alpha", 1.702)), op.Sub(1.0, s))
    return (op.Mul(dy, op.Mul(s, op.Add(1.0, rest))),)


def test_for_authors_of_rules() -> None:
    check_gradient_rule("Elu", RULES["Elu"], noise(3, 4), alpha=0.7)
    check_gradient_rule("Clip", RULES["Clip"], noise(3, 4), None, np.array(0.3))
    check_gradient_rule("ReduceSum", RULES["ReduceSum"], noise(3, 4), np.array([1]), keepdims=0)
    compute: Any = lambda x, alpha: x / (1 + np.exp(-alpha * x))  # noqa: E731
    check_gradient_rule("com.acme.Swish", swish, noise(3, 4), computes=compute, alpha=1.5)
    with pytest.raises(AssertionError, match=r"input 0 of com.acme.Swish: .* that is wrong by \d"):
        check_gradient_rule("com.acme.Swish", RULES["Neg"], noise(3, 4), computes=compute, alpha=1.5)
    with pytest.raises(AssertionError, match="12 of 12 outputs are at a kink"):
        check_gradient_rule("Relu", RULES["Relu"], np.zeros((3, 4)))


def on_cpu(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    try:
        session = onnxruntime().InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run it: {error}") from None
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def checks_of(model: Model, rules: Rules | None = None, layers: str | None = None) -> list[LayerCheck]:
    size = model.preprocessing.height
    pictures = noise(2, 3, size or 8, size or 8).astype(np.float32)
    return list(LayerChecker(model, layers=layers, rules=rules).run(pictures, on_cpu))


def network(write: Callable[[Any, Any], Any], size: int = 12) -> Model:
    builder = Builder("net")
    x = builder.input("input", ["N", 3, size, size])
    builder.output(write(builder.op, x))
    return Model.of(builder.model(), preprocessing=Preprocessing.preset("tf", height=size, width=size))


def test_every_layer_of_a_network() -> None:
    found = checks_of(make_tiny_model())
    assert [(check.layer, check.what, check.verdict) for check in found] == [
        ("conv", "input", "good"),
        ("conv", "weight", "good"),
        ("relu", "input", "good"),
        ("pool", "input", "good"),
        ("flatten", "input", "good"),
        ("dense", "input", "good"),
        ("dense", "weight", "good"),
        ("probabilities", "input", "good"),
    ]
    assert all(check.error is not None and check.error < 1e-8 for check in found)
    assert all(check.error_on_runtime is not None and 0 < check.error_on_runtime < 1e-5 for check in found)
    assert [check.layer for check in checks_of(make_tiny_model(), layers="re*,-1")] == [
        "relu",
        "probabilities",
    ]
    with pytest.raises(UsageError):
        checks_of(make_tiny_model(), layers="nowhere")


def wrong_only_at(index: int, operator: str) -> Rules:
    def rule(op: Any, node: Any, dy: Any, *inputs: Any) -> Any:
        found = list(RULES[operator](op, node, dy, *inputs))
        right = found[index]
        found[index] = op.Mul(right() if callable(right) else right, 1.001)
        return tuple(found)

    return {operator: rule}


@pytest.mark.parametrize(
    "operator, index, layer", [("Conv", 0, 0), ("Conv", 1, 1), ("Relu", 0, 2), ("Softmax", 0, 7)]
)
def test_the_wrong_layer_is_named(operator: str, index: int, layer: int) -> None:
    found = checks_of(make_tiny_model(), wrong_only_at(index, operator))
    assert [number for number, check in enumerate(found) if check.verdict != "good"] == [layer]
    assert found[layer].verdict == "wrong" and "by the gradient" in found[layer].reason


def test_rules_that_fail_or_refuse() -> None:
    def fails(op: Any, node: Any, dy: Any, x: Any) -> Any:
        return node.nonsense

    def refuses(op: Any, node: Any, dy: Any, x: Any) -> Any:
        raise node.refusal("needs a better day")

    failed, refused = (checks_of(make_tiny_model(), {"Relu": rule})[2] for rule in (fails, refuses))
    assert (failed.verdict, refused.verdict) == ("wrong", "refused")
    assert "AttributeError" in failed.reason
    assert refused.reason == "the gradient of Relu 'relu' (opset 18) needs a better day"


def test_a_rule_that_onnx_runtime_cannot_run() -> None:
    def in_double(op: Any, node: Any, dy: Any, x: Any) -> Any:
        ones = np.ones((3, 1, 1, 1))
        return (op.CastLike(op.Conv(op.Cast(dy, to=onnx.TensorProto.DOUBLE), ones, group=3), dy),)

    [check] = checks_of(network(lambda op, x: op.Identity(x)), {"Identity": in_double})
    assert check.error is not None and check.error < 1e-8
    assert check.verdict == "wrong" and "ONNX Runtime" in check.reason


def test_no_rule() -> None:
    model = network(lambda op, x: op.Relu(op.Det(x)))
    found = checks_of(model)
    assert [check.verdict for check in found] == ["no rule", "good"]
    assert "there is no gradient rule for the operator Det (opset 18)" in found[0].reason


def test_layers_alike_are_checked_once() -> None:
    kernels = [noise(3, 3, 3, 3, seed=seed).astype(np.float32) for seed in range(4)]

    def write(op: Any, x: Any) -> Any:
        for number, kernel in enumerate(kernels):
            pads = [1] * 4 if number < 3 else [0] * 4
            x = op.Relu(op.Conv(x, kernel, pads=pads, name=f"conv{number}"), name=f"relu{number}")
        return x

    found = checks_of(network(write))
    assert [(check.layer, check.alike) for check in found if check.what == "input"] == [
        ("conv0", ["conv1", "conv2"]),
        ("relu0", ["relu1", "relu2"]),
        ("conv3", []),
        ("relu3", []),
    ]


def test_dead_units_and_ties_are_no_false_alarm() -> None:
    """What a Relu leaves goes into all that has kinks at zero or at equal numbers."""

    def write(op: Any, x: Any) -> Any:
        x = op.Relu(op.Sub(x, 0.5), name="relu")
        x = op.Relu(op.MaxPool(x, kernel_shape=[3, 3], strides=[1, 1]), name="again")
        x = op.Clip(op.Sqrt(x, name="root"), 0.0, 0.9, name="clip")
        x = op.Max(x, op.AveragePool(x, kernel_shape=[3, 3], pads=[1] * 4), name="larger")
        return op.ReduceMax(x, [2, 3], keepdims=0, name="largest")

    found = checks_of(network(write))
    assert {check.layer for check in found} >= {"relu", "again", "root", "clip", "larger", "largest"}
    assert [check.verdict for check in found[:-1]] == ["good"] * (len(found) - 1), found
    assert found[-1].verdict == "not checked" and "lie at a kink" in found[-1].reason, found[-1]


def test_outputs_more_than_one_and_settings() -> None:
    def write(op: Any, x: Any) -> Any:
        first, second, third = op.Split(x, axis=1, num_outputs=3, output=3)
        x = op.Concat(op.Mul(first, third), second, axis=1, name="both")
        x = op.Resize(x, None, [1.0, 1.0, 2.0, 2.0], mode="nearest", name="larger")
        return op.Gemm(op.Flatten(x), noise(2 * 24 * 24, 4).astype(np.float32), name="dense")

    found = checks_of(network(write))
    assert [check.verdict for check in found] == ["good"] * len(found), found
    assert [check.what for check in found if check.layer in ("larger", "dense")] == [
        "input",
        "input",
        "weight",
    ]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 17, 23, 64])
def test_a_window_lies_to_the_steps_as_the_plane_did(size: int, stride: int) -> None:
    node = helper.make_node(
        "Conv", ["x", "k"], ["y"], strides=[stride] * 2, pads=[1, 1, 1, 1], dilations=[2, 2]
    )
    x, kernel = noise(1, 2, size, size), noise(4, 2, 3, 3)
    window, same = cut(node, [x, kernel])
    assert window is not None and same is kernel
    assert window.shape[:2] == (1, 2) and window.shape[2] <= min(size, 5 + 3 * stride)
    assert (size - window.shape[2]) % stride == 0


def test_whole_networks() -> None:
    model = make_tiny_model()
    picture = noise(1, 3, 16, 16).astype(np.float32)
    right = whole_slopes(model, picture, "dense", device="cpu")
    assert all(slope.good and slope.error < 1e-3 for slope in right)
    wrong = whole_slopes(model, picture, "dense", rules=wrong_by(1.05), device="cpu")
    assert all(
        slope.clear and not slope.good and slope.error == pytest.approx(0.05, rel=0.1) for slope in wrong
    )


def wrong_by(factor: float) -> Rules:
    return {"Relu": lambda op, node, dy, x: (op.Mul(RULES["Relu"](op, node, dy, x)[0], factor),)}


def broken_host(rules: Rules) -> Host:
    host = Host(entries=[])
    host.gradient_rules = lambda: dict(rules)  # type: ignore[method-assign]
    return host


def test_the_report() -> None:
    good = check_gradient(make_tiny_model(), host=Host(entries=[]), device="cpu")
    assert good.good and "8 different gradients, which stand for 8: all good" in good.sentence
    wrong = check_gradient(make_tiny_model(), host=broken_host(wrong_by(1.05)), device="cpu")
    assert (
        not wrong.good
        and ": 1 wrong" in wrong.sentence
        and "the whole network's slope is WRONG" in wrong.sentence
    )
    missing = check_gradient(network(lambda op, x: op.Det(x)), host=Host(entries=[]), device="cpu")
    assert not missing.good and isinstance(missing.whole, str) and "no gradient rule" in missing.whole
    assert missing.to_json()["whole"]["problem"] == missing.whole
    unchecked = LayerCheck("x", "X", None, "input", 0, "x", verdict="not checked")
    assert not type(good)("n", [unchecked], "", 0.0).good
    assert type(good)("n", [unchecked], good.whole, 0.0).good


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="raise", under="ignore"):
        yield


def test_the_error_of_what_cannot_be_loaded() -> None:
    with pytest.raises(ModelError):
        check_gradient("nowhere.onnx", host=Host(entries=[]))
