"""Keras' files of HDF5: its old files of weights, whole models, and Keras 3's, by themselves or in a .keras.

The old ones list the names of their layers, and each layer those of its arrays. Keras 3 counts the layers of
each class (layers/conv2d, layers/conv2d_1, …) and their arrays; newer versions note the layers' names too.
"""

import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_CUR, SEEK_END, RawIOBase
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

from cnnkit import ModelError
from cnnkit.models.weights.contents import Contents, KerasLayers, Layer, Stored

Group = Any
"""One of h5py, which has no types."""

WEIGHTS = "model.weights.h5"
"""In a .keras file."""
IGNORED = {"seed_generator"}
"""What a layer of Keras 3 may have beside weights."""


@contextmanager
def read_hdf5(path: Path) -> Iterator[Contents]:
    """The contents of an HDF5 file that Keras wrote. Raises ModelError when another program did."""
    with path.open("rb") as file, _opened(file, path) as contents:
        yield contents


@contextmanager
def read_keras(path: Path) -> Iterator[Contents]:
    """The contents of a .keras file: a zip archive with the weights in it, not compressed."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(WEIGHTS)
        if member.compress_type != zipfile.ZIP_STORED:
            raise ModelError(f"{path} is compressed, as Keras does not do; unpack it and take its {WEIGHTS}")
        with _opened(_Part(file, member), path) as contents:
            yield contents


class _Part(RawIOBase):
    """A member of an archive as a file of its own."""

    def __init__(self, file: BinaryIO, member: zipfile.ZipInfo) -> None:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        self._file, self._start, self._size = file, file.tell() + name + extra, member.file_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + {SEEK_CUR: self._position, SEEK_END: self._size}.get(whence, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextmanager
def _opened(file: Any, path: Path) -> Iterator[Contents]:
    import h5py

    with h5py.File(file, "r") as root:
        group = _inside(root, "model_weights", path) if "model_weights" in root else root
        names = _texts(group, "layer_names")
        if names:
            yield KerasLayers(_named_layers(group, names, path))
        elif "layers" in group:
            yield KerasLayers(_counted_layers(_inside(group, "layers", path), path))
        else:
            raise ModelError(f"{path} is an HDF5 file, but not one with weights that Keras wrote")


def _named_layers(group: Group, names: Sequence[str], path: Path) -> list[Layer]:
    """The layers of an old file that have weights."""
    layers = []
    for name in names:
        inner = _inside(group, name, path)
        weights = _texts(inner, "weight_names")
        if weights:
            layers.append(Layer(name, [_stored(inner, weight, path, f"{name}/") for weight in weights]))
    return layers


def _counted_layers(group: Group, path: Path) -> list[Layer]:
    """The layers of a file of Keras 3 that have weights, in order for each class."""
    layers = []
    for counter in sorted(group, key=_class_and_number):
        layer = _inside(group, counter, path)
        if not IGNORED.issuperset(layer.keys() - {"vars"}):
            raise ModelError(f"{path} has layers within its '{counter}'; cnnkit reads networks without such")
        variables: Group = _inside(layer, "vars", path) if "vars" in layer else ()
        numbers = sorted(variables, key=int)
        if numbers:
            name = _text(variables.attrs.get("name", counter))
            arrays = [_stored(variables, number, path, f"{counter}/") for number in numbers]
            layers.append(Layer(name, arrays, _class_and_number(counter)[0]))
    return layers


def _class_and_number(counter: str) -> tuple[str, int]:
    """Of separable_conv2d_3: ("separable_conv2d", 3); of the first, separable_conv2d, the number is 0."""
    kind, _, number = counter.rpartition("_")
    return (kind, int(number)) if number.isdecimal() else (counter, 0)


def _texts(group: Group, name: str) -> list[str]:
    """An attribute that may be in pieces, name0, name1, …, for HDF5 limits its size."""
    numbered = takewhile(group.attrs.__contains__, (f"{name}{number}" for number in count()))
    pieces = [name] if name in group.attrs else numbered
    return [_text(text) for piece in pieces for text in group.attrs[piece]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _stored(group: Group, name: str, path: Path, prefix: str) -> Stored:
    dataset = _inside(group, name, path)
    if dataset.external or dataset.is_virtual:
        raise ModelError(f"{path} keeps '{name}' in another file; cnnkit reads only what is in this one")
    return Stored(prefix + name, dataset.shape, dataset.dtype.name, lambda: dataset[()])


def _inside(group: Group, name: str, path: Path) -> Any:
    """A group or array that lies in the file itself, not behind a link."""
    import h5py

    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True)
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            raise ModelError(f"{path} has a link in place of '{name}'; cnnkit follows no links")
        found = found[part]
    return found
