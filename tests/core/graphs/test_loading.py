"""Loading refuses what is no network with a sentence, and keeps large weights in their file."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit import Builder, Graph, Model, ModelError, Session

Write = Callable[[onnx.ModelProto | bytes], Path]


def large_network(side: int = 600) -> onnx.ModelProto:
    """Flatten -> one dense layer whose weights take more than a megabyte."""
    graph = Builder("large")
    x = graph.op.Flatten(graph.input("input", ("batch", 1, 1, side)), name="flatten")
    weights = np.random.default_rng(0).standard_normal((side, side), np.float32)
    graph.output(graph.op.MatMul(x, graph.constant(weights, "dense.kernel"), name="dense"), ("batch", side))
    return graph.model()


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Graph.load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an ONNX model but a PNG picture"),
        (b"\n<!DOCTYPE html><html></html>", "but an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\xf3" + bytes(range(200)), "is not an ONNX model"),
    ],
)
def test_what_is_no_onnx_file(write: Write, content: bytes, sentence: str) -> None:
    assert sentence in refusal(write(content))


def test_missing_and_folder(tmp_path: Path) -> None:
    assert "there is no model file" in refusal(tmp_path / "absent.onnx")
    assert "is a folder" in refusal(tmp_path)


def test_truncated_anywhere(write: Write, small: onnx.ModelProto) -> None:
    whole = small.SerializeToString()
    for length in range(1, len(whole) - 1, 7):
        refusal(write(whole[:length]))
    assert "truncated or damaged" in refusal(write(whole[: len(whole) // 2]))


def changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    change(model)
    return model


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def no_picture(*inputs: onnx.ValueInfoProto) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.input[:]
        model.graph.input.extend(inputs)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.graph.ClearField("node"), "has no nodes"),
        (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6; cnnkit runs 7 to 26"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "opset 99"),
        (lambda m: setattr(m, "ir_version", 99), "file version 99"),
        (
            lambda m: setattr(m.graph.node[1], "op_type", "Relo"),
            "operator 'Relo', which opset 18 does not have",
        ),
        (lambda m: setattr(m.graph.node[1], "domain", "my.own"), "is no standard ONNX (domain 'my.own')"),
        (lambda m: setattr(m.graph.node[1], "op_type", "Swish"), "'Swish', which opset 18 does not have"),
        (lambda m: m.graph.node[1].output.__setitem__(0, "conv"), "conv"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "probabilities"), "topologically sorted"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"), "'nowhere'"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 60), "declared as 1152921504606846976x"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -4), "declared as -4x"),
        (no_picture(), "has 0 inputs (none)"),
        (
            no_picture(value("input", [1, 3, 8, 8]), value("mask", [1, 1, 8, 8])),
            "has 2 inputs ('input', 'mask'); cnnkit needs exactly one",
        ),
        (no_picture(value("input", [1, 3, 1 << 20, 1 << 20])), "no picture of a usable size"),
        (no_picture(value("input", [1, 80, 100])), "has shape (1, 80, 100)"),
        (no_picture(value("input", ["batch", 5, 8, 8])), "neither the second nor the last size is 1 or 3"),
        (no_picture(value("input", [1, 3, 8, 8], TensorProto.INT64)), "is int64, not float or uint8"),
    ],
)
def test_what_is_no_network_for_pictures(
    write: Write, small: onnx.ModelProto, change: Callable[[onnx.ModelProto], object], sentence: str
) -> None:
    assert sentence in refusal(write(changed(small, change)))


def test_large_weights_stay_in_the_file(write: Write) -> None:
    model = large_network()
    path = write(model)
    graph = Graph.load(path)
    assert graph.skeleton.ByteSize() < 2000
    expected = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(graph.constant("dense.kernel"), expected)
    assert graph.proto == model

    x = np.random.default_rng(1).standard_normal((2, 1, 1, 600), np.float32)
    result = Session(Model.load(path), "cpu").run(x)["dense"]
    np.testing.assert_allclose(result, x.reshape(2, 600) @ expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", range(8))
def test_weights_at_any_byte_of_the_file(write: Write, padding: int) -> None:
    model = large_network()
    model.producer_name = "x" * padding
    x = np.random.default_rng(1).standard_normal((2, 1, 1, 600), np.float32)
    result = Session(Model.load(write(model)), "cpu").run(x)["dense"]
    expected = x.reshape(2, 600) @ numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_changes_under_its_graph(write: Write) -> None:
    path = write(large_network())
    model = Model.load(path)
    write(large_network(700))
    with pytest.raises(ModelError, match="was changed or removed"):
        Session(model, "cpu").run(np.zeros((1, 1, 1, 600), np.float32))


def external(tmp_path: Path, location: str = "weights.bin") -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(large_network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    x = np.ones((1, 1, 1, 600), np.float32)
    expected = numpy_helper.to_array(large_network().graph.initializer[0]).sum(axis=0)
    result = Session(Model.load(path), "cpu").run(x)["dense"][0]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    before = Graph.load(path).sha256
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert Graph.load(path).sha256 != before


def test_external_data_that_are_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:1000])
    assert "are truncated" in refusal(path)
    (tmp_path / "weights.bin").unlink()
    assert "'weights.bin', which is not there" in refusal(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../x", "", "link.bin"])
def test_external_data_never_escape_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = external(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    os.symlink(tmp_path / "weights.bin", folder / "link.bin")
    assert "outside its own folder" in refusal(path)


def test_sha256_is_that_of_the_file(write: Write, small: onnx.ModelProto) -> None:
    import hashlib

    path = write(small)
    assert Graph.load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


DAMAGED_CHILD = """
import sys
from pathlib import Path
import numpy as np
from cnnkit import CnnkitError, Model, Session, measure
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        model = Model.load(path)
        measure(model.graph, model.preprocessing.height, model.preprocessing.width)
        model.classes
        shape = [1, 8, 6]
        shape.insert(1 if model.graph.layout == "nchw" else 3, model.graph.channels)
        Session(model, "cpu", threads=1).run(np.zeros(shape, np.float32))
    except CnnkitError as error:
        assert "\\n" not in str(error), path
"""


def test_damage_is_a_model_error_and_nothing_else(tmp_path: Path, small: onnx.ModelProto) -> None:
    whole = small.SerializeToString()
    for number in range(300):
        chance = random.Random(number)
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            start = chance.randrange(len(damaged))
            if chance.random() < 0.5:
                damaged[start] ^= 1 << chance.randrange(8)
            else:
                damaged[start : start + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
        (tmp_path / f"{number:03}.onnx").write_bytes(damaged)
    child = subprocess.run(
        [sys.executable, "-c", DAMAGED_CHILD, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert (child.returncode, child.stderr) == (0, "")
