"""Files of torch.save: the zip archives of PyTorch 1.6 and later, and the row of pickles from before.

Both hold a pickle, read and not run, of a dictionary of tensors. A tensor is a view of a storage, and the
bytes of the storages lie beside the pickle.
"""

import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnnkit import ModelError
from cnnkit.models.weights.contents import Contents, Stored, by_name
from cnnkit.models.weights.pickles import Refused, dictionary, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of the old format."""
PROTOCOL = 1001
"""The second."""

SAVE = "save the weights alone, with torch.save(model.state_dict(), FILE)"

TYPES: Mapping[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("<i1"),
    "uint8": np.dtype("<u1"),
    "bool": np.dtype("<u1"),
}
"""How the numbers lie in the file; those of bfloat16 are the upper halves of float32."""
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


@dataclass(frozen=True)
class Storage:
    """Numbers in a row."""

    key: str
    dtype: str
    numbers: int


Fetch = Callable[[Storage, int, int], bytes]
"""The bytes from a start to an end in a storage."""


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """Behind the last number of the storage that it has."""
        if 0 in self.shape:
            return self.offset
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    def array(self, fetch: Fetch) -> NDArray[Any]:
        dtype = TYPES[self.storage.dtype]
        data = fetch(self.storage, self.offset * dtype.itemsize, self.end * dtype.itemsize)
        numbers: NDArray[Any] = np.frombuffer(data, dtype, self.end - self.offset)
        if self.storage.dtype == "bfloat16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        steps = [step * numbers.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers, self.shape, steps, writeable=False)


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Tensor:
    """torch._utils._rebuild_tensor_v2. What follows the strides is about gradients."""
    tensor = Tensor(storage, offset, shape, strides)
    sizes = (offset, *shape, *strides)
    if len(shape) > 64 or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("not a shape")
    if tensor.end > storage.numbers:
        raise ValueError("outside of its storage")
    return tensor


KNOWN: Mapping[str, Any] = {
    **STORAGES,
    "collections.OrderedDict": dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


@contextmanager
def read_zip(path: Path) -> Iterator[Contents]:
    """The contents of a file of PyTorch 1.6 or later."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise ModelError(f"{path} is a TorchScript program; {SAVE}")

        def stored(name: str) -> zipfile.ZipInfo:
            """A member that is not compressed, as PyTorch writes it, and so no larger than the file."""
            member = archive.getinfo(name)
            if member.compress_type or not member.file_size == member.compress_size <= path.stat().st_size:
                raise ValueError("compressed")
            return member

        def fetch(storage: Storage, start: int, end: int) -> bytes:
            member = stored(f"{root}data/{storage.key}")
            if end > member.file_size:
                raise EOFError
            with archive.open(member) as data:
                data.seek(start)
                return data.read(end - start)

        index = archive.read(stored(f"{root}data.pkl"))
        order = archive.read(stored(f"{root}byteorder")) if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise ModelError(f"{path} was written on a big-endian machine; save it anew on another one")
        yield _contents(_read(path, BytesIO(index), _storage), fetch, path)


@contextmanager
def read_pickles(path: Path) -> Iterator[Contents]:
    """The contents of a file from before PyTorch 1.6: pickles one after the other, then the storages."""
    with path.open("rb") as file:
        if _read(path, file) != MAGIC or _read(path, file) != PROTOCOL:
            raise ModelError(f"{path} is a Python pickle, but not one of PyTorch; {SAVE}")
        if not _read(path, file)["little_endian"]:
            raise ModelError(f"{path} was written on a big-endian machine; save it anew on another one")
        storages: dict[str, Storage] = {}

        def storage(words: Any) -> Storage:
            *words, view = words
            if view is not None:
                raise ValueError("a storage that is part of another one")
            found = _storage(words)
            return storages.setdefault(found.key, found)

        value = _read(path, file, storage)
        keys = _read(path, file)
        places = {}
        for key in keys:
            (numbers,) = struct.unpack("<q", file.read(8))
            if numbers != storages[key].numbers:
                raise ValueError("a storage of another size")
            places[key] = file.tell()
            file.seek(numbers * TYPES[storages[key].dtype].itemsize, 1)

        def fetch(storage: Storage, start: int, end: int) -> bytes:
            file.seek(places[storage.key] + start)
            return file.read(end - start)

        if file.tell() > path.stat().st_size:
            raise EOFError
        yield _contents(value, fetch, path)


def _read(path: Path, file: BinaryIO, storage: Callable[[Any], Storage] | None = None) -> Any:
    try:
        return read_pickle(file, KNOWN, storage or _storage)
    except Refused as refused:
        raise ModelError(
            f"{path} holds more than weights: it has {refused}, and cnnkit runs nothing from a file; {SAVE}"
        ) from None


def _storage(words: Any) -> Storage:
    """Of what a pickle says: 'storage', the type, the key, the device, how many numbers."""
    kind, dtype, key, _, numbers = words
    if kind != "storage" or dtype not in TYPES or not isinstance(key, str) or int(numbers) < 0:
        raise ValueError("not a storage")
    return Storage(key, dtype, numbers)


def _contents(value: Any, fetch: Fetch, path: Path) -> Contents:
    """Of the value of the pickle: a state dictionary, or one in a checkpoint."""
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(item, Tensor) for item in value.values()):
        raise ModelError(f"{path} holds no plain dictionary of weights; {SAVE}")
    prefix = "module." if all(str(name).startswith("module.") for name in value) else ""
    names = [str(name).removeprefix(prefix) for name in value]
    return by_name(
        [
            Stored(name, tensor.shape, tensor.storage.dtype, partial(tensor.array, fetch))
            for name, tensor in zip(names, value.values(), strict=True)
        ]
    )
