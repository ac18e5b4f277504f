"""Files of other kinds, and weights of other networks: what is said."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tiny_network import (
    MODULES,
    Arrays,
    as_torch,
    made,
    parameters,
    read,
    tensors,
    write_npz,
    write_old,
    write_pth,
    write_safetensors,
)

from cnnkit import ModelError
from cnnkit.models.weights.files import FileWeights


def said(path: Path, separable: bool = True, classes: int = 3) -> str:
    with pytest.raises(ModelError) as caught:
        read(path, separable, classes)
    return str(caught.value)


def test_every_difference_is_counted_and_some_are_shown(tmp_path: Path) -> None:
    arrays: Arrays = made() | {f"extra{number}.kernel": np.zeros((1, 2)) for number in range(4)}
    del arrays["first.bias"], arrays["hidden.kernel"]
    assert said(write_npz(tmp_path / "a.npz", arrays), classes=7) == (
        f"the weights in {tmp_path}/a.npz are not those of this network: "
        "2 missing, 4 left over, 2 of another shape\n"
        "  missing: first.bias 4\n"
        "  missing: hidden.kernel 96x6\n"
        "  left over: extra0.kernel 1x2\n"
        "  left over: extra1.kernel 1x2\n"
        "  left over: 2 more\n"
        "  of another shape: scores.kernel is 6x7 in the network, scores.kernel 6x3 in the file\n"
        "  of another shape: scores.bias is 7 in the network, scores.bias 3 in the file"
    )


def test_shapes_of_torch_are_said_in_its_order(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a", as_torch(made(separable=False)))
    text = said(path, separable=False, classes=7)
    assert "scores.kernel is 7x6 in the network, 7.weight 3x6 in the file" in text


def test_other_classes(tmp_path: Path) -> None:
    assert said(write_npz(tmp_path / "a.npz", made()), classes=7).endswith(
        "\nThe file has 3 classes; `cnnkit models export NETWORK --weights FILE --classes 3 -o NEW.onnx` "
        "makes the network for them."
    )


def test_with_and_without_top(tmp_path: Path) -> None:
    arrays = made()
    without = {
        name: array for name, array in arrays.items() if name.split(".")[0] not in ("hidden", "scores")
    }
    assert said(write_old(tmp_path / "a.h5", without)).endswith("take the network without its top.")
    more = arrays | {"fc.kernel": np.zeros((3, 3)), "fc.bias": np.zeros(3)}
    assert said(write_old(tmp_path / "b.h5", more)).endswith(
        "2 left over\n  left over: fc/fc_1/0:0 3x3\n  left over: fc/fc_1/1:0 3\n"
        "The file has more layers; if they are the dense ones, take the network with its top."
    )


def test_a_layer_more_in_the_middle_shifts_nothing(tmp_path: Path) -> None:
    """VGG19's file for VGG16: the layers of the same name are partners, so that the difference is short."""
    arrays: Arrays = {}
    for name, array in made().items():
        arrays[name] = array
        if name == "second.kernel":
            arrays["third.kernel"] = array
    text = said(write_old(tmp_path / "a.h5", arrays))
    assert "this network: 1 left over\n  left over: third/third_1/0:0 1x1x5x4" in text


def test_order_alone_does_not_make_a_partner(tmp_path: Path) -> None:
    exchanged = {"first": "a", "norm": "b", "hidden": "c"}
    arrays = made()
    arrays["first.kernel"], arrays["second.kernel"] = arrays["second.kernel"], arrays["first.kernel"]
    text = said(write_old(tmp_path / "a.h5", arrays, exchanged))
    assert "first.kernel is 3x3x3x4 in the network, a/a_1/0:0 1x1x5x4 in the file" in text


def test_a_batch_norm_without_a_scale(tmp_path: Path) -> None:
    arrays = made()
    del arrays["norm.gamma"]
    assert "1 missing\n  missing: norm.moving_variance 4" in said(write_old(tmp_path / "a.h5", arrays))


def test_nothing_is_read_before_all_fits(tmp_path: Path) -> None:
    """The last layer has another shape, and the numbers of the first are not there."""
    arrays = as_torch(made(separable=False))
    data = {name: array.tobytes() for name, array in arrays.items() if name != "0.weight"}
    path = write_pth(tmp_path / "a.pth", tensors(arrays), data)
    assert "2 of another shape" in said(path, separable=False, classes=4)
    assert "truncated or damaged" in said(path, separable=False)


def test_one_array_is_read_at_a_time(tmp_path: Path) -> None:
    """What is damaged further down is not yet known."""
    arrays = as_torch(made(separable=False))
    data = {name: array.tobytes() for name, array in arrays.items() if name != "7.bias"}
    path = write_pth(tmp_path / "a.pth", tensors(arrays), data)
    filled = FileWeights.open(path).fill(parameters(separable=False), MODULES)
    assert [parameter.name for parameter, _ in islice(filled, 10)][-1] == "scores.kernel"
    with pytest.raises(ModelError, match="truncated or damaged"):
        next(filled)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", r"the weight file .* is empty$"),
        (b"\x89PNG\r\n\x1a\n", "no file of weights but a PNG picture"),
        (b"\xff\xd8\xff\xe0", "but a JPEG picture"),
        (
            b"\x08\x07\x12\x07pytorch",
            "but an ONNX network, which has its weights in it: name it",
        ),
        (b"\n<!DOCTYPE html>", "but an HTML or XML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"a Git LFS pointer; fetch the file itself",
        ),
        (b'{"class_name": "Functional"}', "but JSON text"),
        (b"\x1f\x8b\x08", "but a gzip archive; unpack it"),
        (b"plain text", r"neither HDF5 or \.keras of Keras, nor \.safetensors, \.pth or \.npz"),
        (b"\x89HDF\r\n\x1a\n", "truncated or damaged; fetch it again"),
        (b"PK\x03\x04", "truncated or damaged"),
        (b"\x80\x02", "truncated or damaged"),
        (b"\x40\0\0\0\0\0\0\0{", "truncated or damaged"),
    ],
)
def test_other_files(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(start)
    with pytest.raises(ModelError, match=words):
        FileWeights.open(tmp_path / "a.h5")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no weight file .*/a\.h5$"):
        FileWeights.open(tmp_path / "a.h5")
    with pytest.raises(ModelError, match="is a folder; name the file of weights in it"):
        FileWeights.open(tmp_path)


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    weights = FileWeights.open(write_npz(tmp_path / "a.npz", made()))
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ModelError, match="truncated or damaged"):
        next(weights.fill(parameters(), {}))
