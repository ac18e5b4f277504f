"""NumPy's archives of named arrays."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from numpy.lib import format
from numpy.typing import NDArray

from cnnkit.models.weights.contents import Contents, Stored, by_name


@contextmanager
def read_npz(path: Path) -> Iterator[Contents]:
    """The contents of an .npz file; arrays of Python objects are not read."""
    with zipfile.ZipFile(path) as archive:
        yield by_name([_stored(archive, name) for name in archive.namelist()])


def _stored(archive: zipfile.ZipFile, name: str) -> Stored:
    with archive.open(name) as member:
        read_header = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
        shape, _, dtype = read_header[format.read_magic(member)](member)
    return Stored(name.removesuffix(".npy"), shape, dtype.name, partial(_read, archive, name))


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as member:
        array: NDArray[Any] = format.read_array(member, allow_pickle=False)
        return array
