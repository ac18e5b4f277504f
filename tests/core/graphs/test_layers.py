"""What counts as a layer, what it is called, and how to pick some."""

import json

import numpy as np
import onnx
import pytest

from cnnkit import Builder, Graph, ModelError, UsageError

NAMES = ["conv", "relu", "pool", "flatten", "dense", "probabilities"]


@pytest.fixture
def graph(small: onnx.ModelProto) -> Graph:
    return Graph.of(small)


def names(graph: Graph) -> list[str]:
    return [layer.name for layer in graph.layers]


def test_layers_in_graph_order(graph: Graph) -> None:
    assert names(graph) == NAMES
    assert [layer.index for layer in graph.layers] == list(range(6))
    assert graph.layers[0].operator == "Conv"


def test_shapes_and_constants_are_no_layers() -> None:
    b = Builder()
    x = b.input("x", ("batch", 3, 4, 4))
    size = b.op.Gather(b.op.Shape(x), np.array([0]))
    shape = b.op.Concat(size, np.array([48]), axis=0)
    bias = b.op.Neg(np.ones(48, np.float32))
    b.output(b.op.Add(b.op.Reshape(x, shape, name="flat"), bias, name="sum"), ("batch", 48))
    assert names(Graph.of(b.model())) == ["flat", "sum"]


def test_a_layer_without_a_name_of_its_own_is_called_as_its_tensor(small: onnx.ModelProto) -> None:
    small.graph.node[0].name = ""
    small.graph.node[1].name = small.graph.node[2].name = "twice"
    assert names(Graph.of(small)) == NAMES


def test_metadata_name_the_layers(small: onnx.ModelProto) -> None:
    small.graph.node[1].name = "anything"
    listed = [["block1_conv1", "relu"], ["block1_pool", "pool"], ["predictions", "probabilities"]]
    onnx.helper.set_model_props(small, {"cnnkit.layers": json.dumps(listed)})
    graph = Graph.of(small)
    assert names(graph) == ["block1_conv1", "block1_pool", "predictions"]
    assert [(part.index, part.name) for part in graph.parts] == [
        (0, "conv"), (0, "block1_conv1"), (1, "block1_pool"),
        (2, "flatten"), (2, "dense"), (2, "predictions"),
    ]  # fmt: skip
    assert [part.name for part in graph.find("conv, 1, dense")] == ["conv", "block1_pool", "dense"]
    assert [part.name for part in graph.find("block1_*")] == ["block1_conv1", "block1_pool"]
    assert [part.name for part in graph.find("*e*se")] == ["dense"], "a pattern that no layer has"


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("relu", "relu"),
        ("1", "relu"),
        ("-1", "probabilities"),
        ("1:3", "relu pool"),
        ("-2:", "dense probabilities"),
        (":2", "conv relu"),
        ("p*", "pool probabilities"),
        ("?o*", "conv pool"),
        ("[cd]*", "conv dense"),
        ("dense, conv", "conv dense"),
        (["pool", "0", "pool"], "conv pool"),
    ],
)
def test_find(graph: Graph, patterns: str | list[str], found: str) -> None:
    assert [layer.name for layer in graph.find(patterns)] == found.split()


def test_an_exact_name_comes_before_an_index_and_a_tensor_s_name_will_do(small: onnx.ModelProto) -> None:
    small.graph.node[4].name = "1"
    graph = Graph.of(small)
    assert [layer.tensor for layer in graph.find("1")] == ["dense"]
    assert [layer.name for layer in graph.find("dense")] == ["1"]


def test_a_module_around_layers_means_the_last_of_them(small: onnx.ModelProto) -> None:
    names = "layer4.0.conv1", "layer4.0.relu", "layer4.1/add", "layer40.conv"
    for node, name in zip(small.graph.node, names, strict=False):
        node.name = name
    graph = Graph.of(small)
    found = {
        module: [layer.name for layer in graph.find(module)] for module in ("layer4.0", "layer4.1", "layer4")
    }
    assert found == {"layer4.0": ["layer4.0.relu"], "layer4.1": ["layer4.1/add"], "layer4": ["layer4.1/add"]}
    with pytest.raises(UsageError, match="no layer is called 'layer'"):
        graph.find("layer")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("rely", "no layer is called 'rely'. Did you mean 'relu'?"),
        ("block*", "no layer is called 'block*'"),
        ("6", "there is no layer 6: the network has 6, from 0 to 5"),
        ("-7", "there is no layer -7"),
        ("6:9", "no layer lies in 6:9"),
        ("conv,", "no layer is called ''"),
    ],
)
def test_what_cannot_be_found(graph: Graph, pattern: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        graph.find(pattern)
    assert sentence in str(caught.value)


def test_extract_keeps_only_what_is_needed(graph: Graph) -> None:
    part = graph.extract(["relu", "conv"])
    assert [node.name for node in part.skeleton.graph.node] == ["conv", "relu"]
    assert {tensor.name for tensor in part.skeleton.graph.initializer} == {"conv.kernel", "conv.bias"}
    assert [output.name for output in part.outputs] == ["relu", "conv"]
    with pytest.raises(ModelError, match="no tensor 'nowhere'"):
        graph.extract(["nowhere"])
