"""Files as PyTorch writes them, read without it, and safetensors."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny_network import (
    Arrays,
    as_torch,
    made,
    read,
    tensor,
    tensors,
    tiny,
    write_arrays,
    write_arrays_old,
    write_npz,
    write_old_pth,
    write_pth,
    write_safetensors,
)

from cnnkit import ModelError, Session
from cnnkit.models.weights.files import FileWeights

WRITERS = {
    "new.pth": write_arrays,
    "old.pth": write_arrays_old,
    "a.safetensors": write_safetensors,
    "a.npz": write_npz,
}


def same(path: Path, expected: Arrays | None = None) -> None:
    found = read(path, separable=False)
    expected = expected or made(separable=False)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name)


def state() -> Arrays:
    """What PyTorch's modules of the tiny network keep."""
    return as_torch(made(separable=False)) | {"2.num_batches_tracked": np.array(7)}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_array_arrives_where_it_belongs_and_turned(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / "unsaid", state())
    assert FileWeights.open(path).family == "torch"
    same(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("kind", WRITERS)
def test_other_precisions(kind: str, dtype: Any, tmp_path: Path) -> None:
    same(WRITERS[kind](tmp_path / kind, {name: array.astype(dtype) for name, array in state().items()}))


def test_the_plane_is_flattened_in_another_order(tmp_path: Path) -> None:
    """PyTorch's number c*24 + y*4 + x of 4 channels of 6 x 4 is Keras' (y*4 + x)*4 + c."""
    arrays = state()
    arrays["5.weight"] = np.arange(96, dtype=np.float32) + np.zeros((6, 1), np.float32)
    kernel = read(write_safetensors(tmp_path / "a", arrays), separable=False)["hidden.kernel"]
    assert kernel.shape == (96, 6)
    assert kernel[(5 * 4 + 2) * 4 + 3, 1] == 3 * 24 + 5 * 4 + 2


def test_dense_layers_as_convolutions(tmp_path: Path) -> None:
    """As timm has VGG's: the first over the whole plane, the others over one place, all under other names."""
    arrays = state()
    arrays["fc.weight"] = arrays.pop("5.weight").reshape(6, 4, 6, 4)
    arrays["fc.bias"] = arrays.pop("5.bias")
    arrays["head.weight"] = arrays.pop("7.weight").reshape(3, 6, 1, 1)
    arrays["head.bias"] = arrays.pop("7.bias")
    same(write_safetensors(tmp_path / "timm.safetensors", arrays))


def test_keras_names_in_safetensors(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a", made())
    assert FileWeights.open(path).family == "keras"
    found = read(path)
    for name, array in made().items():
        assert_array_equal(found[name], array)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_and_modules_in_parallel(key: str, tmp_path: Path) -> None:
    arrays = {f"module.{name}": array for name, array in state().items()}
    content = {"epoch": 3, "best": None, key: tensors(arrays), "lr": [1, 2], "amp": False}
    same(write_pth(tmp_path / "a.pth", content, storages(arrays)))


def storages(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def test_views_of_one_storage(tmp_path: Path) -> None:
    """A transposed kernel, every second number, and one number three times."""
    arrays, shared = state(), np.arange(1000, dtype=np.float32)
    views = {
        "7.weight": {"shape": (3, 6), "strides": (1, 3), "offset": 40},
        "0.bias": {"shape": (4,), "strides": (2,), "offset": 5},
        "7.bias": {"shape": (3,), "strides": (0,), "offset": 999},
    }
    expected = made(separable=False)
    expected["scores.kernel"] = shared[40:58].reshape(6, 3)
    expected["first.bias"] = shared[[5, 7, 9, 11]]
    expected["scores.bias"] = shared[[999] * 3]

    rest = {name: array for name, array in arrays.items() if name not in views}
    data = storages(rest) | {"shared": shared.tobytes()}
    numbers = {name: array.size for name, array in rest.items()} | {"shared": 1000}
    for legacy in (False, True):
        content = tensors(rest, legacy)
        for name, view in views.items():
            content[name] = tensor("shared", **view, numbers=1000, legacy=legacy)
        if legacy:
            path = write_old_pth(tmp_path / "old.pth", content, {k: (numbers[k], data[k]) for k in data})
        else:
            path = write_pth(tmp_path / "new.pth", content, data)
        same(path, expected)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    arrays = state()
    content = tensors(arrays)
    content["7.bias"] = tensor("7.bias", (3,), (1,), numbers=3, storage="BFloat16Storage")
    halves = np.array([0x3FC0, 0xC000, 0x0080], "<u2")
    data = storages(arrays) | {"7.bias": halves.tobytes()}
    found = read(write_pth(tmp_path / "a.pth", content, data), separable=False)["scores.bias"]
    assert_array_equal(found, np.array([1.5, -2, 2.0**-126], np.float32))


def test_numbers_that_are_no_weights(tmp_path: Path) -> None:
    arrays = state() | {"7.bias": np.arange(3)}
    for kind, writer in WRITERS.items():
        with pytest.raises(
            ModelError, match=r"'7\.bias' in .* has numbers of type .*64; cnnkit takes weights of"
        ):
            read(writer(tmp_path / kind, arrays), separable=False)
    path = write_safetensors(
        tmp_path / "b", state() | {"7.bias": np.zeros(3, np.float16)}, {"7.bias": "BF16"}
    )
    with pytest.raises(ModelError, match="numbers of type BF16"):
        read(path, separable=False)


@pytest.mark.parametrize(
    "words",
    [
        tensor("7.bias", (3,), (1,), numbers=2),
        tensor("7.bias", (3,), (1,), offset=1, numbers=3),
        tensor("7.bias", (3,), (1 << 62,), numbers=3),
        tensor("7.bias", (3,), (-1,), offset=2, numbers=3),
        tensor("7.bias", (1 << 62, 1 << 62), (1, 1), numbers=3),
        tensor("7.bias", (3,), (1, 1), numbers=3),
        tensor("7.bias", (3,), (1 << 60,), numbers=1 << 62),
        tensor("7.bias", (3,), (2,), numbers=5),
        tensor("7.bias", (0, 3), (1, 1), offset=-1, numbers=3),
        tensor("absent", (3,), (1,), numbers=3),
        tensor("../data.pkl", (3,), (1,), numbers=1000),
    ],
)
def test_tensors_outside_of_their_storages(words: bytes, tmp_path: Path) -> None:
    """Whether the storage is as large as the pickle says shows when it is read."""
    content = tensors(state()) | {"7.bias": words}
    with pytest.raises(ModelError, match="truncated or damaged"):
        read(write_pth(tmp_path / "a.pth", content, storages(state())), separable=False)


def test_an_enormous_shape_of_one_number_is_another_shape(tmp_path: Path) -> None:
    content = tensors(state())
    content["7.bias"] = tensor("7.bias", (1 << 60,), (0,), numbers=3)
    with pytest.raises(ModelError, match=r"7\.bias 1152921504606846976 in the file"):
        read(write_pth(tmp_path / "a.pth", content, storages(state())), separable=False)


def test_compressed_storages_are_not_unpacked(tmp_path: Path) -> None:
    """PyTorch does not compress them, and a few bytes may become any number."""
    path = write_arrays(tmp_path / "a.pth", state())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    with pytest.raises(ModelError, match="truncated or damaged"):
        FileWeights.open(tmp_path / "b.pth")


def test_an_old_file_ends_too_early(tmp_path: Path) -> None:
    path = write_arrays_old(tmp_path / "old.pth", state())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated or damaged"):
        FileWeights.open(path)


def test_torchscript(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "a.pt", {}, {}, constants_pkl=b"\x80\x02).")
    with pytest.raises(ModelError, match=r"TorchScript program; save the weights alone, with torch\.save"):
        FileWeights.open(path)


def test_no_dictionary(tmp_path: Path) -> None:
    for content in ([1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}):
        with pytest.raises(ModelError, match="holds no plain dictionary of weights; save the weights alone"):
            FileWeights.open(write_pth(tmp_path / "a.pth", content, {}))


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_gives_the_same_output(zipped: bool, tmp_path: Path) -> None:
    import torch

    network = torch_tiny()
    torch.save(network.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    batch = torch.randn(2, 3, 6, 4)
    with torch.no_grad():
        expected = network(batch).numpy()
    found = Session(tiny(tmp_path / "a.pth", separable=False)).run(batch.numpy())["scores"]
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected) > 0.1


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves(zipped: bool, tmp_path: Path) -> None:
    """Parameters, halves, other orders in memory, parts of a storage: all as torch.load has them."""
    import torch

    network = torch_tiny()
    states: dict[str, Any] = dict(network.named_parameters()) | dict(network.named_buffers())
    whole = torch.randn(100)
    states["0.weight"] = states["0.weight"].detach().to(memory_format=torch.channels_last)
    states["7.weight"] = states["7.weight"].detach().T.contiguous().T
    states["0.bias"], states["2.weight"] = whole[3:7], whole[20:60:10]
    states["5.bias"] = states["5.bias"].detach().bfloat16()
    states["5.weight"] = states["5.weight"].detach().half()
    states["2.running_mean"] = torch.tensor([3.0]).expand(4).double()
    states = {f"module.{name}": value for name, value in states.items()}
    checkpoint = {
        "state_dict": states,
        "optimizer": torch.optim.Adam(network.parameters()).state_dict(),
        "epoch": 1,
    }
    torch.save(checkpoint, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
    found = as_torch(read(tmp_path / "a.pth", separable=False))
    for name, array in found.items():
        assert_array_equal(array, loaded[f"module.{name}"].detach().float().numpy(), err_msg=name)


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused(zipped: bool, tmp_path: Path) -> None:
    import torch

    torch.save(torch_tiny(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ModelError, match=r"the name 'torch\.nn\.modules\.container\.Sequential', and cnnkit runs"
    ):
        FileWeights.open(tmp_path / "a.pth")


@pytest.mark.oracle
def test_what_safetensors_writes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    network = torch_tiny()
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    found = as_torch(read(tmp_path / "a.safetensors", separable=False))
    for name, array in found.items():
        assert_array_equal(array, torch.as_tensor(network.state_dict()[name]).numpy(), err_msg=name)


def torch_tiny() -> Any:
    """The tiny network in PyTorch, with random weights and statistics."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.BatchNorm2d(4, eps=1e-3),
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 6),
        torch.nn.ReLU(),
        torch.nn.Linear(6, 3),
    )
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_()
    return network.eval()
