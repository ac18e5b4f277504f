"""Cutting, folding and halving networks: what they compute, what stays named, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from cnnkit import (
    Builder,
    Model,
    ModelError,
    Preprocessing,
    Session,
    TrainingSession,
    UsageError,
    measure,
)
from cnnkit.graphs.reshaping import cut, folded, stored_as_float16
from cnnkit.models.small_vgg import untrained

SIZE = (1, 3, 8, 6)
NORM = {
    "gamma": np.array([2.0, -1.0, 0.5, 3.0]),
    "beta": np.array([0.25, 4.0, -1.0, 0.0]),
    "mean": np.array([1.0, -2.0, 0.0, 0.5]),
    "variance": np.array([4.0, 0.25, 1.0, 9.0]),
}


def picture(shape: tuple[int, ...] = SIZE) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal(shape, np.float32)


def output(model: Model, x: NDArray[np.float32] | None = None) -> NDArray[Any]:
    (value,) = Session(model, device="cpu").run(picture() if x is None else x).values()
    return value


def norm(b: Builder, x: Any, name: str = "norm") -> Any:
    weights = [b.constant(value.astype(np.float32), f"{name}.{key}") for key, value in NORM.items()]
    return b.op.BatchNormalization(x, *weights, epsilon=1e-3, name=name)


def both_ways(model: Model, path: Path) -> list[Model]:
    """In memory, and as read from a file."""
    return [model, Model.load(model.save(path))]


# Cutting


@pytest.fixture
def labelled(small: onnx.ModelProto) -> Model:
    preprocessing = Preprocessing.preset("torch", height=8, width=6, fit="crop")
    return Model.of(small, preprocessing=preprocessing, labels="abc", name="mine", licence="CC0")


def test_a_network_cut_at_a_layer_gives_its_value(labelled: Model, tmp_path: Path) -> None:
    (value,) = Session(labelled, device="cpu").run(picture(), ["relu"]).values()
    for model in both_ways(labelled, tmp_path / "whole.onnx"):
        part = cut(model, "relu")
        for again in both_ways(part, tmp_path / "part.onnx"):
            assert np.array_equal(output(again), value)
            assert [layer.name for layer in again.layers] == ["conv", "relu"]
            assert (again.name, again.licence, again.labels) == ("mine", "CC0", ())
            assert again.preprocessing == labelled.preprocessing
            assert again.graph.outputs[0].shape == ("batch", 4, 8, 6)
        assert {tensor.name for tensor in part.graph.skeleton.graph.initializer} == {
            "conv.kernel",
            "conv.bias",
        }
        assert part.sha256 != model.sha256


def test_labels_stay_as_long_as_the_output_has_one_score_per_class(labelled: Model) -> None:
    assert cut(labelled, "dense").labels == ("a", "b", "c")
    assert cut(labelled, "-1").labels == ("a", "b", "c")
    assert cut(labelled, "flatten").labels == ()


def test_a_node_inside_a_layer_can_be_the_end(small: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(small, {"cnnkit.layers": '[["first", "relu"], ["last", "probabilities"]]'})
    part = cut(Model.of(small), "conv")
    assert [(layer.name, layer.tensor) for layer in part.layers] == [("conv", "conv")]
    part = cut(Model.of(small), "pool")
    assert [layer.name for layer in part.layers] == ["first", "pool"]


def test_the_output_of_a_network_of_any_size_is_declared_as_open() -> None:
    b = Builder()
    x = b.op.Relu(b.input("input", ("batch", 3, "height", "width")), name="relu")
    b.output(b.op.GlobalAveragePool(x, name="pool"))
    assert cut(Model.of(b.model()), "relu").graph.outputs[0].shape == ("batch", 3, None, None)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("rely", "no layer is called 'rely'. Did you mean 'relu'?"),
        ("*", "'*' names 6 layers, but a network is cut at one"),
        ("conv,relu", "no layer is called 'conv,relu'"),
    ],
)
def test_a_cut_needs_one_layer(labelled: Model, layer: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        cut(labelled, layer)
    assert sentence in str(caught.value)


# Folding batch norms


def test_folding_in_closed_form(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    x = b.op.Conv(x, np.ones((4, 3, 1, 1), np.float32), b.constant([1.0, 2.0, 3.0, 4.0]), name="conv")
    b.output(b.op.Relu(norm(b, x), name="relu"))
    for model in both_ways(Model.of(b.model()), tmp_path / "norm.onnx"):
        single = folded(model)
        assert [layer.name for layer in single.layers] == ["norm", "relu"]
        assert [layer.operator for layer in single.layers] == ["Conv", "Relu"]
        factor = NORM["gamma"] / np.sqrt(NORM["variance"] + np.float64(np.float32(1e-3)))
        kernel, bias = (single.graph.constant(f"norm.{name}") for name in ("kernel", "bias"))
        assert kernel is not None and bias is not None
        assert np.array_equal(kernel[:, 1, 0, 0], factor.astype(np.float32))
        shifted = (np.array([1, 2, 3, 4]) - NORM["mean"]) * factor + NORM["beta"]
        assert np.array_equal(bias, shifted.astype(np.float32))
        assert {t.name for t in single.graph.skeleton.graph.initializer} == {"norm.kernel", "norm.bias"}
        assert np.allclose(output(single), output(model), rtol=1e-5, atol=1e-5)


def convolution(b: Builder, x: Any) -> Any:
    kernel = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    return b.op.Conv(x, kernel, auto_pad="SAME_UPPER", strides=[2, 2], name="layer")


def grouped(b: Builder, x: Any) -> Any:
    kernel = np.random.default_rng(1).standard_normal((4, 2, 3, 3), np.float32)
    x = b.op.Conv(x, np.random.default_rng(2).standard_normal((4, 3, 1, 1), np.float32), name="before")
    return b.op.Conv(x, kernel, np.ones(4, np.float32), group=2, name="layer")


def transposed(b: Builder, x: Any) -> Any:
    x = b.op.Conv(x, np.random.default_rng(2).standard_normal((6, 3, 1, 1), np.float32), name="before")
    kernel = np.random.default_rng(1).standard_normal((6, 2, 3, 3), np.float32)
    return b.op.ConvTranspose(x, kernel, group=2, strides=[2, 2], name="layer")


def dense(**attributes: Any) -> Callable[[Builder, Any], Any]:
    def append(b: Builder, x: Any) -> Any:
        x = b.op.Flatten(b.op.GlobalAveragePool(x, name="pool"), name="flatten")
        shape = (4, 3) if attributes.get("transB") else (3, 4)
        kernel = np.random.default_rng(1).standard_normal(shape, np.float32)
        return b.op.Gemm(x, kernel, np.array([[1, 2, 3, 4]], np.float32), name="layer", **attributes)

    return append


@pytest.mark.parametrize(
    "layer",
    [convolution, grouped, transposed, dense(), dense(transB=1, alpha=0.5, beta=3.0)],
    ids=["convolution", "grouped", "transposed", "dense", "dense with factors"],
)
def test_what_a_batch_norm_folds_into(layer: Callable[[Builder, Any], Any]) -> None:
    b = Builder()
    b.output(norm(b, layer(b, b.input("input", ("batch", 3, 8, 6)))))
    model = Model.of(b.model())
    single = folded(model)
    assert "BatchNormalization" not in [node.op_type for node in single.graph.skeleton.graph.node]
    assert single.layers[-1].name == "norm"
    assert np.allclose(output(single), output(model), rtol=1e-5, atol=1e-5)


def test_a_batch_norm_that_cannot_be_folded_stays(small: onnx.ModelProto) -> None:
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    kernel = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    twice = b.op.Conv(x, b.constant(kernel, "kernel"), name="twice")
    computed = b.op.Conv(
        x, b.op.Add(b.constant(kernel, "base"), b.op.ReduceMean(x, keepdims=0)), name="computed"
    )
    after_relu = b.op.Relu(norm(b, twice, "first"), name="relu")
    y = b.op.Add(after_relu, twice, name="sum")
    b.output(
        b.op.Add(
            norm(b, b.op.Add(y, computed, name="more"), "second"), norm(b, computed, "third"), name="end"
        )
    )
    model = Model.of(b.model())
    single = folded(model)
    assert single.layers == model.layers
    assert np.array_equal(output(single), output(model))


def test_shared_kernels_fold_one_by_one() -> None:
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    kernel = b.constant(np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32), "kernel")
    plain = b.op.Conv(x, kernel, name="plain")
    shifted = b.op.Conv(b.op.Relu(x, name="relu"), kernel, name="shifted")
    b.output(b.op.Add(norm(b, plain, "first"), norm(b, shifted, "second"), name="sum"))
    model = Model.of(b.model())
    single = folded(model)
    assert [layer.name for layer in single.layers] == ["relu", "first", "second", "sum"]
    assert np.allclose(output(single), output(model), rtol=1e-5, atol=1e-5)


def test_a_convolution_with_its_norm_inside_of_a_layer_keeps_its_names() -> None:
    model = untrained("random:3")
    weights = {tensor.name for tensor in model.graph.proto.graph.initializer}
    less = folded(model)
    assert [layer.name for layer in less.layers] == [layer.name for layer in model.layers]
    parts = {part.name for part in less.parts}
    assert "block3_conv2/conv" in parts and "block3_conv2/norm" not in parts
    found = {tensor.name for tensor in less.graph.proto.graph.initializer}
    assert found < {name.replace(".beta", ".bias") for name in weights}
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 48)).astype(np.float32)
    before = Session(model, "cpu").run(x, ["block3_conv2/norm", "predictions"])
    after = Session(less, "cpu").run(x, ["block3_conv2/conv", "predictions"])
    for one, other in zip(before.values(), after.values(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("also_in_a_loop", [False, True])
def test_a_bias_inside_of_a_layer_keeps_its_name(also_in_a_loop: bool) -> None:
    """Or gives way to the norm's names where the body of a loop reads the norm, which nobody renames."""
    random = np.random.default_rng(0)
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    kernel = b.constant(random.standard_normal((4, 3, 1, 1), np.float32), "a.weight")
    x = b.op.Conv(x, kernel, b.constant(random.standard_normal(4, np.float32), "a.offset"), name="a/conv")
    x = norm(b, x, name="a/norm")
    if also_in_a_loop:
        body = helper.make_graph(
            [
                helper.make_node("Add", ["state", "a/norm"], ["next"]),
                helper.make_node("Identity", ["going"], ["go"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
                helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, None),
            ],
        )
        x = b.op.Loop(np.array(2), np.array(True), x, body=body)
    b.output(b.op.Relu(x, name="a"), ("batch", 4, 8, 6))
    model = Model.of(b.model({"cnnkit.layers": '[["a", "a"]]'}))
    less = folded(model)
    names = {tensor.name for tensor in less.graph.proto.graph.initializer}
    assert names >= ({"a/norm.kernel", "a/norm.bias"} if also_in_a_loop else {"a.weight", "a.offset"})
    assert np.allclose(output(less), output(model), rtol=1e-4, atol=1e-4)


def test_the_list_of_layers_leaves_out_what_is_folded() -> None:
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    x = b.op.Conv(x, np.ones((4, 3, 3, 3), np.float32), name="conv1")
    b.output(b.op.Relu(norm(b, x, "bn_conv1"), name="relu1"))
    listed = b.model({"cnnkit.layers": '[["conv1", "conv1"], ["bn_conv1", "bn_conv1"], ["relu1", "relu1"]]'})
    assert [layer.name for layer in folded(Model.of(listed)).layers] == ["bn_conv1", "relu1"]


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("exporter", ["old-preserve", "new-unoptimized"])
def test_folding_torchvision_s_networks(name: str, exporter: Any, tmp_path: Path) -> None:
    import networks

    exported = networks.export(name, exporter, tmp_path)
    model = Model.load(exported.path)
    single = folded(model)
    for again in both_ways(single, tmp_path / "folded.onnx"):
        assert "BatchNormalization" not in {node.op_type for node in again.graph.skeleton.graph.node}
        expected = output(model, exported.x.numpy())
        assert np.abs(output(again, exported.x.numpy()) - expected).max() < 1e-5 * np.abs(expected).max()


# Halving


@pytest.fixture
def wide() -> Model:
    random = np.random.default_rng(0)
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    kernel = b.constant(random.standard_normal((64, 3, 3, 3), np.float32), "conv.kernel")
    bias = b.constant(random.standard_normal(64, np.float32), "conv.bias")
    x = b.op.Relu(b.op.Conv(x, kernel, bias, pads=[1] * 4, name="conv"), name="relu")
    x = b.op.Flatten(b.op.GlobalAveragePool(x, name="pool"), name="flatten")
    b.output(
        b.op.Gemm(x, b.constant(random.standard_normal((64, 3), np.float32), "dense.kernel"), name="dense")
    )
    return Model.of(b.model())


def rounded(model: Model, *names: str) -> Model:
    """The network with these weights rounded to float16 and back."""
    proto = model.graph.proto
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            value = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return Model.of(proto)


def test_large_kernels_are_stored_as_float16_and_computed_with_as_float32(
    wide: Model, tmp_path: Path
) -> None:
    for model in both_ways(wide, tmp_path / "whole.onnx"):
        half = stored_as_float16(model)
        types = {t.name: t.data_type for t in half.graph.skeleton.graph.initializer}
        assert types == {"conv.kernel": 10, "conv.bias": 1, "dense.kernel": 1}
        assert np.array_equal(output(half), output(rounded(wide, "conv.kernel")))
        assert half.layers == model.layers
        assert measure(half.graph).parameters == measure(wide.graph).parameters
        assert measure(half.graph).rows[0].parameters == 64 * 28
        value, whole = half.graph.constant("conv.kernel/float32"), wide.graph.constant("conv.kernel")
        assert value is not None and whole is not None and value.dtype == np.float32
        assert np.array_equal(value, whole.astype(np.float16).astype(np.float32))


def test_gradients_of_a_halved_network(wide: Model) -> None:
    def loss(b: Builder, tap: Callable[[str], Any]) -> dict[str, Any]:
        return {"sum": b.op.ReduceSumSquare(tap("dense"), keepdims=0)}

    wrt = ["input", "conv.kernel", "conv.bias"]
    feeds = {"input": picture((2, *SIZE[1:]))}
    half = TrainingSession(stored_as_float16(wide), loss, wrt, device="cpu").gradient(feeds).gradients
    whole = TrainingSession(rounded(wide, "conv.kernel"), loss, wrt, device="cpu").gradient(feeds).gradients
    assert half["conv.kernel"].dtype == np.float16
    for name, bound in [("input", 1e-5), ("conv.bias", 1e-5), ("conv.kernel", 1e-3)]:
        assert np.abs(half[name] - whole[name]).max() < bound * np.abs(whole[name]).max()


def test_a_number_that_float16_cannot_hold_is_refused(wide: Model) -> None:
    proto = wide.graph.proto
    kernel = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    kernel[0, 0, 0, 0] = -1e5
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "conv.kernel"))
    with pytest.raises(ModelError, match=r"'conv.kernel' holds 1e\+05, and float16 ends at 65504"):
        stored_as_float16(Model.of(proto))


def test_large_weights_in_files_are_halved_cut_and_folded(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    x = b.op.Conv(x, np.random.default_rng(0).standard_normal((512, 3, 1, 1), np.float32), name="wide")
    kernel = np.random.default_rng(1).standard_normal((4, 512, 12, 12), np.float32)
    x = norm(b, b.op.Conv(x, b.constant(kernel, "large"), pads=[6] * 4, name="conv"))
    b.output(b.op.Relu(x, name="relu"))
    model = Model.load(Model.of(b.model()).save(tmp_path / "large.onnx"))
    assert onnx.TensorProto.EXTERNAL in [t.data_location for t in model.graph.skeleton.graph.initializer]
    whole = output(model)
    single = folded(model)
    assert np.abs(output(single) - whole).max() < 1e-5 * np.abs(whole).max()
    half = stored_as_float16(single)
    assert np.abs(output(half) - whole).max() < 1e-3 * np.abs(whole).max()
    small = Model.load(half.save(tmp_path / "half.onnx"))
    assert (tmp_path / "half.onnx").stat().st_size < 0.51 * (tmp_path / "large.onnx").stat().st_size
    assert np.array_equal(output(small), output(half))
    assert np.array_equal(
        output(cut(model, "conv")), Session(model, device="cpu").run(picture(), ["conv"])["conv"]
    )
