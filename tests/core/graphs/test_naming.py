"""Layers are called as in the program that was exported, as far as its file still says so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from cnnkit import Graph, Model, Session
from cnnkit.graphs.naming import readable_names

SCOPES = "pkg.torch.onnx.name_scopes"


def chain(
    nodes: Sequence[tuple[str, str]], producer: str = "pytorch", scopes: Sequence[str] = ()
) -> onnx.ModelProto:
    """A network of these (operator, name), one after another."""
    made = []
    for index, (operator, name) in enumerate(nodes):
        made.append(helper.make_node(operator, [f"t{index}"], [f"t{index + 1}"], name=name))
    for node, scope in zip(made, scopes, strict=False):
        node.metadata_props.append(onnx.StringStringEntryProto(key=SCOPES, value=scope))
    value = [helper.make_tensor_value_info(name, 1, ["n", 3, 4, 4]) for name in ("t0", f"t{len(nodes)}")]
    graph = helper.make_graph(made, "chain", value[:1], value[1:])
    return helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 18)])


def names(model: onnx.ModelProto) -> list[str]:
    return [layer.name for layer in Graph.of(model).layers]


def test_torch_s_older_exporter() -> None:
    model = chain(
        [
            ("Relu", "/features/features.0/Relu"),
            ("Sigmoid", "/layer1/layer1.0/conv/conv.1/Sigmoid"),
            ("Neg", "/layer1/layer1.0/Neg"),
            ("Abs", "/layer1/layer1.0/Abs"),
            ("Relu", "/layer1/layer1.0/relu_1/Relu"),
            ("Exp", "/block/Exp"),
            ("Tanh", "/block/inner/Tanh"),
            ("Neg", "/block/Neg"),
            ("Abs", "/Abs"),
            ("Abs", "/Abs_1"),
        ]
    )
    assert names(model) == [
        "features.0",
        "layer1.0.conv.1",
        "layer1.0/neg",
        "layer1.0/abs",
        "layer1.0.relu_1",
        "block/exp",
        "block.inner",
        "block",
        "abs",
        "abs_1",
    ]


def test_torch_s_newer_exporter() -> None:
    operators = ["Relu", "Sigmoid", "Mul", "Tanh", "Abs", "Neg"]
    model = chain(
        [(operator.replace("Mul", "Exp"), f"node_{index}") for index, operator in enumerate(operators)],
        scopes=[
            "['', 'features', 'features.0', 'relu']",
            "['', 'features', 'features.1', 'silu']",
            "['', 'features', 'features.1', 'silu']",
            "['', 'tanh']",
            "no list",
        ],
    )
    assert names(model) == ["features.0", "features.1/sigmoid", "features.1", "tanh", "node_4", "node_5"]


@pytest.mark.parametrize("call", ["", "StatefulPartitionedCall/"])
@pytest.mark.parametrize("traced", ["", "_1"])
def test_keras_by_tf2onnx(call: str, traced: str) -> None:
    prefix = f"{call}model{traced}/"
    model = chain(
        [
            ("Identity", f"{prefix}block1_conv1{traced}/convolution__6"),
            ("Neg", f"{prefix}block1_conv1{traced}/convolution"),
            ("Relu", f"{prefix}block1_conv1{traced}/Relu"),
            ("Neg", f"{prefix}bn{traced}/batchnorm/mul_1"),
            ("Abs", f"{prefix}bn{traced}/batchnorm/add_1"),
            ("Identity", f"{prefix}bn{traced}/batchnorm/add_1__12"),
            ("Tanh", "Tanh__9"),
            ("Neg", f"{prefix}sep{traced}/separable_conv2d/depthwise"),
            ("Abs", f"{prefix}sep{traced}/separable_conv2d"),
        ],
        "tf2onnx",
    )
    assert names(model) == [
        "block1_conv1/identity",
        "block1_conv1/neg",
        "block1_conv1",
        "bn/neg",
        "bn",
        "bn/identity",
        "Tanh__9",
        "sep/neg",
        "sep",
    ]


def test_numbers_that_tell_layers_apart_stay() -> None:
    model = chain([("Relu", "m/conv_1/Relu"), ("Abs", "m/conv_2/Abs")], "tf2onnx")
    assert names(model) == ["conv_1", "conv_2"]


def test_a_number_is_an_index_and_no_name() -> None:
    graph = Graph.of(chain([("Abs", "Abs"), ("Relu", "/0/Relu"), ("Neg", "/1/Neg")]))
    assert [layer.name for layer in graph.layers] == ["Abs", "0/relu", "1/neg"]
    assert graph.find("0")[0].name == "Abs"


def test_good_names_stay() -> None:
    nodes = [("Relu", "block1/relu"), ("Abs", "conv.1/abs"), ("Neg", "")]
    model = chain(nodes, "somebody")
    assert readable_names(model, model.graph.node) == {}
    assert names(model) == ["block1/relu", "conv.1/abs", "t3"]


def test_a_layer_is_found_under_every_name() -> None:
    graph = Graph.of(chain([("Relu", "/features/features.0/Relu"), ("Abs", "/head/Abs")]))
    for pattern in ("features.0", "/features/features.0/Relu", "/features/*", "features.*", "t1"):
        assert [layer.name for layer in graph.find(pattern)] == ["features.0"]


def test_names_that_were_saved_stay(tmp_path: Path) -> None:
    model = Model.of(chain([("Relu", "/features/features.0/Relu"), ("Abs", "/head/Abs")]))
    assert Model.load(model.save(tmp_path / "saved.onnx")).layers == model.layers


@pytest.mark.oracle
@pytest.mark.parametrize("exporter", ["old-preserve", "new", "new-unoptimized"])
def test_what_is_called_as_a_module_is_its_value(exporter: Any, tmp_path: Path) -> None:
    """Of torchvision's ResNet-18, where a module may be called twice."""
    import networks

    exported = networks.export("resnet18", exporter, tmp_path)
    model = Model.load(exported.path)
    modules = dict(exported.module.named_modules())
    called = {layer.name: layer.tensor for layer in model.layers if layer.name in modules}
    assert {"bn1", "maxpool", "layer1.0.relu", "layer2.0.downsample.1", "avgpool", "fc"} <= called.keys()
    seen: dict[str, list[Any]] = {name: [] for name in called}
    for name in called:
        modules[name].register_forward_hook(lambda _, __, y, name=name: seen[name].append(y.detach().clone()))
    exported.module(exported.x)
    found = Session(model, device="cpu").run(exported.x.numpy(), list(called.values()))
    for name, tensor in called.items():
        errors = [np.abs(found[tensor] - y.numpy()).max() / np.abs(y.numpy()).max() for y in seen[name]]
        assert min(errors) < 1e-4, name
