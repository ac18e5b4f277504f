"""Writing a network: the file is what onnx would have written, and its weights are not copied on the way."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnnkit import Builder, Model, OutputError
from cnnkit.graphs import saving
from cnnkit.graphs.loading import GRAPH


def network(filters: int) -> Model:
    """A kernel of 300 * filters bytes, one that is not raw, and small ones."""
    random = np.random.default_rng(0)
    b = Builder()
    x = b.input("input", ("batch", 3, 8, 6))
    kernel = b.constant(random.standard_normal((filters, 3, 5, 5), np.float32), "kernel")
    x = b.op.Conv(x, kernel, b.constant(random.standard_normal(filters, np.float32), "bias"), name="conv")
    x = b.op.Relu(b.op.Mul(x, b.constant(2.0, "scale"), name="scaled"), name="relu")
    b.output(x)
    model = b.model({"producer": "somebody", "cnnkit.licence": '"old"'})
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(onnx.helper.make_tensor("scale", 1, [], [2.0]))
    return Model.of(model, name="mine", licence="CC0")


def both_ways(filters: int, folder: Path) -> list[Model]:
    model = network(filters)
    return [model, Model.load(model.save(folder / "first.onnx"))]


@pytest.mark.parametrize("filters", [4, 8000])
def test_the_file_is_the_whole_model(filters: int, tmp_path: Path) -> None:
    for model in both_ways(filters, tmp_path):
        expected = model.graph.proto
        found = onnx.load(model.save(tmp_path / "saved.onnx"))
        onnx.checker.check_model(found, full_check=True)
        assert found.graph == expected.graph
        assert (found.opset_import, found.ir_version) == (expected.opset_import, expected.ir_version)
        metadata = {entry.key: entry.value for entry in found.metadata_props}
        assert metadata == {
            "producer": "somebody",
            **model.metadata,
            "cnnkit.layers": metadata["cnnkit.layers"],
        }
        assert json.loads(metadata["cnnkit.layers"])[0] == ["conv", "conv"]
        assert json.loads(metadata["cnnkit.licence"]) == "CC0"


def test_every_field_is_written_once(tmp_path: Path) -> None:
    """A reader that does not merge the pieces of a message reads it too."""
    data = network(8000).save(tmp_path / "saved.onnx").read_bytes()
    rest, fields = data, []
    while rest:
        tag, rest = number(rest)
        fields.append(tag >> 3)
        length, rest = number(rest)
        rest = rest[length if tag & 7 == 2 else 0 :]
    assert fields.count(GRAPH) == 1


def number(data: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for position, byte in enumerate(data):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, data[position + 1 :]
    raise ValueError


def test_weights_are_not_copied(tmp_path: Path) -> None:
    for model, copies in zip(both_ways(80_000, tmp_path), (1, 0), strict=True):
        tracemalloc.start()
        model.save(tmp_path / "saved.onnx")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (copies + 0.1) * 300 * 80_000


def test_a_file_can_be_replaced_by_itself(tmp_path: Path) -> None:
    _, model = both_ways(8000, tmp_path)
    before = model.graph.constant("kernel")
    model.save(tmp_path / "first.onnx")
    assert np.array_equal(Model.load(tmp_path / "first.onnx").graph.constant("kernel"), before)


def test_what_no_reader_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(8000)
    monkeypatch.setattr(saving, "LARGEST_FILE", 1 << 20)
    with pytest.raises(
        OutputError, match="takes 2 MiB, and an ONNX file holds 2047 at most: store its weights"
    ):
        model.save(tmp_path / "saved.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_that_of_what_is_written(tmp_path: Path) -> None:
    assert network(8000).sha256 == network(8000).sha256 != network(8001).sha256
