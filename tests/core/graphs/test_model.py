"""How a model is fed and what its classes are: the file says it, or an argument, or it is assumed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnnkit import Builder, Model, ModelError, Preprocessing, UsageError

Write = Callable[[onnx.ModelProto | bytes], Path]


def picture_network(shape: tuple[int | str, ...]) -> onnx.ModelProto:
    b = Builder()
    b.output(b.op.Flatten(b.input("input", shape), name="flat"), (shape[0], "features"))
    return b.model()


def test_a_foreign_file_and_what_is_assumed(write: Write, small: onnx.ModelProto) -> None:
    model = Model.load(write(small))
    assert model.preprocessing == Preprocessing.preset("tf", height=8, width=6)
    assert model.name == "model"
    assert model.assumptions[0] == (
        "preprocessing is not in the file: assumed 'tf' (x/127.5 - 1, RGB), as nothing in it tells more; "
        "say --preprocess otherwise"
    )
    assert "'squash'" in model.assumptions[1]


def test_arguments_leave_nothing_to_assume(write: Write, small: onnx.ModelProto) -> None:
    model = Model.load(write(small), preprocess="caffe", fit="crop", filter="bicubic", name="mine")
    assert model.preprocessing == Preprocessing.preset(
        "caffe", height=8, width=6, fit="crop", filter="bicubic"
    )
    assert (model.assumptions, model.name) == ((), "mine")


@pytest.mark.parametrize(
    ("shape", "layout", "size", "channels"),
    [
        (("N", 3, 20, 30), "nchw", (20, 30), "rgb"),
        ((1, 20, 30, 3), "nhwc", (20, 30), "rgb"),
        (("N", 1, 20, 30), "nchw", (20, 30), "grey"),
        (("N", "H", "W", 1), "nhwc", (None, None), "grey"),
        (("N", 3, "H", 30), "nchw", (None, 30), "rgb"),
    ],
)
def test_layout_and_size_are_read_from_the_graph(
    shape: tuple[int | str, ...], layout: str, size: tuple[int | None, int | None], channels: str
) -> None:
    preprocessing = Model.of(picture_network(shape)).preprocessing
    assert (preprocessing.layout, preprocessing.channels) == (layout, channels)
    assert (preprocessing.height, preprocessing.width) == size


def test_an_open_size_is_the_argument_s_else_the_metadata_s_else_the_picture_s(write: Write) -> None:
    path = write(picture_network(("N", 3, "H", "W")))
    open_size = Model.load(path)
    assert open_size.preprocessing.height is None
    assert "each picture keeps its own" in open_size.assumptions[-1]
    assert Model.load(path, size=(40, 50)).preprocessing.width == 50
    Model.of(picture_network(("N", 3, "H", "W")), preprocessing=Preprocessing(height=32, width=16)).save(path)
    assert Model.load(path).preprocessing.height == 32
    assert Model.load(path, size=(40, 50)).preprocessing.height == 40


def test_a_fixed_size_is_not_for_choice(write: Write, small: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="fixed height of 8, not 9"):
        Model.load(write(small), size=(9, 6))


def test_what_is_saved_is_loaded(tmp_path: Path, small: onnx.ModelProto) -> None:
    preprocessing = Preprocessing.preset("torch", height=8, width=6, fit="crop")
    model = Model.of(small, preprocessing=preprocessing, labels=["a", "b", "c"], name="mine", licence="CC0")
    again = Model.load(model.save(tmp_path / "saved.onnx"))
    assert (again.preprocessing, again.labels, again.name, again.licence, again.assumptions) == (
        preprocessing,
        ("a", "b", "c"),
        "mine",
        "CC0",
        (),
    )
    assert again.layers == model.layers
    assert Model.load(tmp_path / "saved.onnx", preprocess="raw").preprocessing == Preprocessing(
        height=8, width=6, fit="crop"
    )


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog, hound\nÅland\n",
        json.dumps(["cat", "dog, hound", "Åland"]),
        json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog, hound"], "2": ["n03", "Åland"]}),
        json.dumps({"0": "cat", "2": "Åland", "1": "dog, hound"}),
    ],
)
def test_label_files(write: Write, small: onnx.ModelProto, tmp_path: Path, content: str) -> None:
    labels = tmp_path / "labels"
    labels.write_text(content, "utf-8")
    assert Model.load(write(small), labels=labels).labels == ("cat", "dog, hound", "Åland")


def test_label_files_that_will_not_do(write: Write, small: onnx.ModelProto, tmp_path: Path) -> None:
    path, labels = write(small), tmp_path / "labels"
    with pytest.raises(UsageError, match="no label file"):
        Model.load(path, labels=labels)
    labels.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="hold 2 labels, but the network has 3 classes"):
        Model.load(path, labels=labels)
    labels.write_text('{"first": "cat"}')
    with pytest.raises(UsageError, match="neither a list"):
        Model.load(path, labels=labels)


def test_damaged_metadata(small: onnx.ModelProto) -> None:
    for key, value in [
        ("cnnkit.preprocessing", '{"fit": 3}'),
        ("cnnkit.labels", "[1"),
        ("cnnkit.labels", "3"),
    ]:
        damaged = onnx.ModelProto()
        damaged.CopyFrom(small)
        onnx.helper.set_model_props(damaged, {key: value})
        with pytest.raises(ModelError, match=key):
            Model.of(damaged)


def test_classes(small: onnx.ModelProto) -> None:
    assert Model.of(small).classes == 3
    assert Model.of(picture_network(("N", 1, 1, 1))).classes == 1
    b = Builder()
    b.output(b.op.Relu(b.input("input", ("N", 3, 4, 4)), name="relu"), ("N", 3, 4, 4))
    with pytest.raises(ModelError, match="is no classifier: its output 'relu' has shape"):
        _ = Model.of(b.model()).logits


def test_mobilenet(data: Path) -> None:
    labels = data / "labels" / "imagenet_labels_1001.txt"
    model = Model.load(data / "weights" / "mobilenet_v1_0.25_128.onnx", labels=labels)
    assert (model.classes, model.labels[282], len(model.layers)) == (1001, "tabby, tabby cat", 59)
    assert (model.logits.tensor, model.probabilities.tensor) == ("Flatten_57", "output")
    with pytest.raises(UsageError, match="hold 1000 labels, but the network has 1001"):
        Model.load(
            data / "weights" / "mobilenet_v1_0.25_128.onnx",
            labels=data / "labels" / "imagenet_class_index.json",
        )
    assert np.prod(model.graph.input.shape[1:]) == 3 * 128 * 128  # type: ignore[arg-type]
