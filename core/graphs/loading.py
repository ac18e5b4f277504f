"""Reading ONNX files without reading their weights.

The file is walked field by field. Each large initializer is replaced by a reference into the file, as ONNX
has for external data, and what is left, the skeleton, is small. So a network of half a gigabyte loads at
once, and its weights are in memory one time: where the runtime maps them.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnnkit.errors import ModelError

LARGE = 1 << 20
"""Bytes from which on an initializer stays in its file."""

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Numbers of these fields of ModelProto, GraphProto and TensorProto."""
_KINDS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"PK\x03\x04": "a zip archive, as PyTorch and Keras write them",
    b"\x80": "a Python pickle",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"<": "an HTML or XML page",
    b"{": "JSON text",
}


@dataclass(frozen=True)
class Files:
    """The files that a skeleton refers to, and what they were like when it was read."""

    folder: Path
    stamps: dict[str, tuple[int, int]]

    def array(self, tensor: TensorProto) -> NDArray[Any]:
        """The data of a tensor that stayed in its file, mapped into memory and not writable."""
        place = _place(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        self.check()
        raw = np.memmap(
            self.folder / place["location"], np.uint8, "r", int(place["offset"]), int(place["length"])
        )
        return np.asarray(raw).view(dtype).reshape(tuple(tensor.dims))

    def check(self) -> None:
        """ModelError when a file is not what it was."""
        for name, stamp in self.stamps.items():
            file = self.folder / name
            if not file.is_file() or _stamp(file) != stamp:
                raise ModelError(
                    f"{file} was changed or removed while cnnkit was using it; load the model again"
                )

    def sha256(self) -> str:
        """Of all the files, one after the other; for a model in a single file that of the file."""
        digest = hashlib.sha256()
        for name in self.stamps:
            with (self.folder / name).open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()


def read_skeleton(path: Path) -> tuple[onnx.ModelProto, Files]:
    """Read a model file up to its large weights.

    Raises ModelError when the file is missing, empty, truncated or not ONNX, and when external data are
    missing, too short, of another size than declared, or outside the model's folder.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder; name the .onnx file in it")
    try:
        path = path.resolve(strict=True)
        with path.open("rb") as file:
            skeleton = _parse(path, file)
        files = Files(path.parent, {path.name: _stamp(path)})
        for tensor in skeleton.graph.initializer:
            if is_elsewhere(tensor):
                _settle(tensor, path, files)
            elif tensor.HasField("raw_data"):
                _check_size(tensor, len(tensor.raw_data), path)
    except FileNotFoundError:
        raise ModelError(f"there is no model file {path}") from None
    except OSError as error:
        raise ModelError(f"the model file {path} cannot be read: {error.strerror or error}") from None
    return skeleton, files


def is_elsewhere(tensor: TensorProto) -> bool:
    """Whether the data of this tensor stayed in a file."""
    return tensor.data_location == TensorProto.EXTERNAL


class _Damaged(Exception):
    """The file is no well-formed protobuf message, or ends too early."""


class _Walk:
    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.file, self.name, self.size = file, name, size

    def skeleton(self, end: int, descent: tuple[int, ...]) -> bytes:
        """The message that ends at `end`, with references for large data of tensors down `descent`."""
        out = bytearray()
        while (position := self.file.tell()) < end:
            tag = self._varint()
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                out += varint(tag) + varint(self._varint())
            elif wire in (1, 5):
                out += varint(tag) + self._read(8 if wire == 1 else 4)
            elif wire == 2:
                length = self._varint()
                position = self.file.tell()
                if length > end - position:
                    raise _Damaged
                if not descent and field == RAW_DATA and length >= LARGE:
                    out += _reference(self.name, position, length).SerializeToString()
                    self.file.seek(length, 1)
                    continue
                inside = descent and field == descent[0]
                body = self.skeleton(position + length, descent[1:]) if inside else self._read(length)
                out += varint(tag) + varint(len(body)) + body
            else:
                raise _Damaged
        if position != end:
            raise _Damaged
        return bytes(out)

    def _read(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) != length:
            raise _Damaged
        return data

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._read(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _Damaged


def _parse(path: Path, file: BinaryIO) -> onnx.ModelProto:
    start = file.read(32)
    if not start:
        raise ModelError(f"the model file {path} is empty")
    kind = next((kind for magic, kind in _KINDS.items() if start.lstrip().startswith(magic)), None)
    if kind:
        raise ModelError(f"{path} is not an ONNX model but {kind}")
    file.seek(0)
    size = path.stat().st_size
    try:
        model = onnx.ModelProto()
        model.ParseFromString(_Walk(file, path.name, size).skeleton(size, (GRAPH, INITIALIZER)))
        if any(isinstance(text, bytes) for text in _texts(model)):
            raise _Damaged
        return model
    except (_Damaged, DecodeError):
        if start[0] == 8:  # the field ir_version, with which ONNX files begin
            raise ModelError(
                f"the model file {path} is truncated or damaged; fetch or export it again"
            ) from None
        raise ModelError(f"{path} is not an ONNX model") from None


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every text in a message; protobuf leaves one that is no UTF-8 as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _texts(inner)


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _reference(location: str, offset: int, length: int) -> TensorProto:
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    return TensorProto(
        data_location=TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()],
    )


def _place(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _settle(tensor: TensorProto, path: Path, files: Files) -> None:
    """Check a reference and write it out in full; small data move into the message."""
    place = _place(tensor)
    location = place.get("location", "")
    try:
        file = (files.folder / location).resolve()
        inside = bool(location) and file.is_relative_to(files.folder)
    except ValueError:  # a zero byte in the name
        inside = False
    if not inside:
        raise ModelError(
            f"the model file {path} keeps its tensor '{tensor.name}' in '{location}', outside its own "
            "folder; put the data beside the model"
        )
    if not file.is_file():
        raise ModelError(f"the model file {path} keeps its weights in '{location}', which is not there")
    size = file.stat().st_size
    try:
        offset = int(place.get("offset", 0))
        length = int(place.get("length", size - offset))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"the weights '{location}' of {path} are truncated: the {size} bytes of the file do not hold "
            f"'{tensor.name}'"
        )
    _check_size(tensor, length, path)
    files.stamps.setdefault(str(file.relative_to(files.folder)), _stamp(file))
    if length >= LARGE:
        reference = _reference(str(file.relative_to(files.folder)), offset, length)
    else:
        reference = TensorProto(raw_data=np.fromfile(file, np.uint8, length, offset=offset).tobytes())
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.MergeFrom(reference)


def _check_size(tensor: TensorProto, length: int, path: Path) -> None:
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise ModelError(
            f"the model file {path} is damaged: its tensor '{tensor.name}' has no known type"
        ) from None
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) * dtype.itemsize != length:
        shape = "x".join(map(str, tensor.dims))
        raise ModelError(
            f"the model file {path} is damaged: its tensor '{tensor.name}' is declared as {shape} {dtype} "
            f"but holds {length} bytes"
        )


def array_of(tensor: TensorProto, files: Files | None) -> NDArray[Any]:
    """The value of an initializer, wherever its data are."""
    return files.array(tensor) if files and is_elsewhere(tensor) else numpy_helper.to_array(tensor)
