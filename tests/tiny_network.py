"""A network with a layer of every kind that has weights, and the files that hold its weights.

The files are written byte by byte or with h5py as Keras and PyTorch lay them out, so that their tests need
neither.
"""

import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cnnkit import Model, Preprocessing
from cnnkit.models.architecture import Architecture, Parameter
from cnnkit.models.weights.files import FileWeights

Arrays = dict[str, NDArray[Any]]

MODULES = {"first": ["0"], "norm": ["2"], "deep": ["3"], "hidden": ["fc", "5"], "scores": ["head", "7"]}
"""PyTorch's names of the layers; of the last two there are two."""


def architecture(separable: bool = True, classes: int = 3) -> tuple[Architecture, Any]:
    """For pictures of 6 x 4 pixels, and the value of its last layer."""
    net = Architecture("tiny", (6, 4))
    x = net.input()
    x = net.convolution(x, "first", 4, 3, activation="relu")
    x = net.batch_norm(x, "norm")
    x = net.depthwise(x, "deep", 3)
    if separable:
        x = net.separable(x, "parted", 5)
        x = net.convolution(x, "second", 4, 1, bias=False)
    plane = (*x.shape[2:], x.shape[1])
    x = net.flatten(x, "flatten")
    x = net.dense(x, "hidden", 6, "relu", flattened=plane)
    return net, net.dense(x, "scores", classes)


@cache
def parameters(separable: bool = True, classes: int = 3) -> Sequence[Parameter]:
    return architecture(separable, classes)[0].parameters


def tiny(path: Path, separable: bool = True) -> Model:
    """The network with the weights of a file."""
    net, scores = architecture(separable)
    return net.model(scores, FileWeights.open(path), Preprocessing.preset("raw", height=6, width=4), MODULES)


def read(path: Path, separable: bool = True, classes: int = 3) -> Arrays:
    """What the network takes out of a file, in Keras' layout."""
    filled = FileWeights.open(path).fill(parameters(separable, classes), MODULES)
    return {parameter.name: np.array(array) for parameter, array in filled}


def made(separable: bool = True) -> Arrays:
    """Weights in Keras' layout: numbers that are all different, and exact in float16 too."""
    start, arrays = 512, {}
    for parameter in parameters(separable):
        stop = start + math.prod(parameter.shape)
        arrays[parameter.name] = np.arange(start, stop, dtype=np.float32).reshape(parameter.shape) / 512
        start = stop
    return arrays


def layers(arrays: Arrays) -> dict[str, list[NDArray[Any]]]:
    """By layer."""
    found: dict[str, list[NDArray[Any]]] = {}
    for name, array in arrays.items():
        found.setdefault(name.split(".")[0], []).append(array)
    return found


def as_torch(arrays: Arrays) -> Arrays:
    """As PyTorch has them; those of separable layers it has not."""
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    turned = {}
    for name, array in arrays.items():
        layer, variable = name.split(".")
        if name == "hidden.kernel":
            array = array.reshape(6, 4, 4, -1).transpose(3, 2, 0, 1).reshape(-1, 6 * 4 * 4)
        elif name == "deep.kernel":
            array = array.transpose(2, 3, 0, 1)
        elif variable == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        turned[f"{MODULES[layer][-1]}.{names[variable]}"] = np.ascontiguousarray(array)
    return turned


# Keras


def write_old(path: Path, arrays: Arrays, names: Mapping[str, str] = {}, inside: str = "") -> Path:
    """Keras' old HDF5: weights, or a whole model when they are `inside` of "model_weights"."""
    with h5py.File(path, "w") as file:
        group = file.create_group(inside) if inside else file
        called = [names.get(layer, layer) for layer in layers(arrays)]
        group.attrs["layer_names"] = np.array([b"input_1", *(name.encode() for name in called)])
        group.create_group("input_1").attrs["weight_names"] = []
        for name, values in zip(called, layers(arrays).values(), strict=True):
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [f"{name}_1/{i}:0".encode() for i in range(len(values))]
            for i, value in enumerate(values):
                layer[f"{name}_1/{i}:0"] = value
    return path


CLASSES = {
    "first": "conv2d",
    "norm": "batch_normalization",
    "deep": "depthwise_conv2d",
    "parted": "separable_conv2d",
    "second": "conv2d_1",
    "hidden": "dense",
    "scores": "dense_1",
}
"""How Keras 3 counts the layers."""


def write_new(path: Path, arrays: Arrays, names: Mapping[str, str] = CLASSES, noted: bool = False) -> Path:
    """Keras 3's .weights.h5; `noted` are the layers' own names, as its newer versions add them."""
    with h5py.File(path, "w") as file:
        for layer, values in layers(arrays).items():
            variables = file.create_group(f"layers/{names[layer]}/vars")
            for i, value in enumerate(values):
                variables[str(i)] = value
            if noted:
                variables.attrs["name"] = layer
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["optimizer/vars/0"] = np.zeros((), np.int64)
    return path


def write_keras(path: Path, arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> Path:
    """A .keras file."""
    inner = write_new(path.with_suffix(".inner"), arrays)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
        archive.write(inner, "model.weights.h5")
    inner.unlink()
    return path


def write_npz(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


# safetensors


def write_safetensors(path: Path, arrays: Arrays, types: Mapping[str, str] = {}) -> Path:
    """`types` are those that NumPy has no word for, by name of the array."""
    codes = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
    header, position = {}, 0
    for name, array in arrays.items():
        end = position + array.nbytes
        dtype = types.get(name, codes[array.dtype.name])
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# PyTorch: the instructions of a pickle, as torch.save writes them

STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage"}
STORAGES |= {"int64": "LongStorage"}
PROTOCOL = b"\x80\x02"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def value(content: Any) -> bytes:
    """The instructions for a value; bytes are instructions already."""
    if isinstance(content, bytes):
        return content
    if content is None or isinstance(content, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[content]
    if isinstance(content, str):
        return b"X" + struct.pack("<I", len(content.encode())) + content.encode()
    if isinstance(content, int) and abs(content) < 1 << 31:
        return b"J" + struct.pack("<i", content)
    if isinstance(content, int):
        return b"\x8a\x0a" + content.to_bytes(10, "little", signed=True)
    if isinstance(content, tuple):
        return b"(" + b"".join(map(value, content)) + b"t"
    if isinstance(content, list):
        return b"](" + b"".join(map(value, content)) + b"e"
    return b"}(" + b"".join(value(part) for item in content.items() for part in item) + b"u"


def call(function: bytes, *arguments: Any) -> bytes:
    return function + value(arguments) + b"R"


def tensor(
    key: str,
    shape: Sequence[int],
    strides: Sequence[int],
    *,
    offset: int = 0,
    numbers: int,
    storage: str = "FloatStorage",
    legacy: bool = False,
) -> bytes:
    """The instructions for a view of a storage."""
    words = ("storage", name("torch", storage), key, "cpu", numbers, *([None] if legacy else []))
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        value(words) + b"Q",
        offset,
        tuple(shape),
        tuple(strides),
        False,
        call(name("collections", "OrderedDict")),
    )


def tensors(arrays: Arrays, legacy: bool = False) -> dict[str, bytes]:
    """Of each array, as the only one in its storage, which has its name."""
    return {
        key: tensor(
            key,
            array.shape,
            [step // array.itemsize for step in array.strides],
            numbers=array.size,
            storage=STORAGES[array.dtype.name],
            legacy=legacy,
        )
        for key, array in arrays.items()
    }


def write_pth(path: Path, content: Any, storages: Mapping[str, bytes], **others: bytes) -> Path:
    """A file of PyTorch 1.6 or later, of a value and its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PROTOCOL + value(content) + b".")
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
        for key, data in others.items():
            archive.writestr(f"archive/{key.replace('_', '.')}", data)
    return path


def write_old_pth(path: Path, content: Any, storages: Mapping[str, tuple[int, bytes]]) -> Path:
    """A file from before PyTorch 1.6; of the storages it says how many numbers they have."""
    information = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [0x1950A86A20F9469CFC6C, 1001, information, content, list(storages)]
    rest = b"".join(struct.pack("<q", numbers) + data for numbers, data in storages.values())
    path.write_bytes(b"".join(PROTOCOL + value(part) + b"." for part in parts) + rest)
    return path


def write_arrays(path: Path, arrays: Arrays) -> Path:
    """A state dictionary in a file of PyTorch 1.6 or later."""
    return write_pth(path, tensors(arrays), {name: array.tobytes() for name, array in arrays.items()})


def write_arrays_old(path: Path, arrays: Arrays) -> Path:
    """A state dictionary in a file from before PyTorch 1.6."""
    storages = {name: (array.size, array.tobytes()) for name, array in arrays.items()}
    return write_old_pth(path, tensors(arrays, legacy=True), storages)
