"""Weights from a file, of whatever kind its content shows it to be."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cnnkit import Model, ModelError
from cnnkit.errors import CnnkitError
from cnnkit.models.architecture import Parameter
from cnnkit.models.weights.contents import Contents
from cnnkit.models.weights.filling import Family
from cnnkit.models.weights.fitting import fit
from cnnkit.models.weights.hdf5 import WEIGHTS, read_hdf5, read_keras
from cnnkit.models.weights.npz import read_npz
from cnnkit.models.weights.pth import read_pickles, read_zip
from cnnkit.models.weights.safetensors import read_safetensors

Reader = Callable[[Path], AbstractContextManager[Contents]]

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
OTHERS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"\x08": "an ONNX network, which has its weights in it: name it as the network",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"<": "an HTML or XML page",
    b"{": "JSON text",
}


@dataclass(frozen=True)
class FileWeights:
    """The weights in a file of Keras, PyTorch, safetensors or NumPy."""

    path: Path
    family: Family
    reader: Reader

    @staticmethod
    def open(path: Path) -> "FileWeights":
        """Raises ModelError when the file is missing, damaged, or of no kind that holds weights."""
        reader = _reader(path)
        with _blaming(path), reader(path) as contents:
            return FileWeights(path, contents.family, reader)

    def fill(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Parameter, NDArray[Any]]]:
        """One array at a time is read, and none before all of them fit."""
        with ExitStack() as stack:
            with _blaming(self.path):
                contents = stack.enter_context(self.reader(self.path))
            for parameter, stored in fit(contents, parameters, torch, str(self.path)).items():
                with _blaming(self.path):
                    array = stored.read()
                array = contents.in_keras_layout(parameter, array)
                yield parameter, array

    def finish(self, model: Model) -> Model:
        return model


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Libraries raise anything over a damaged file."""
    try:
        yield
    except CnnkitError:
        raise
    except Exception:
        raise ModelError(f"the weight file {path} is truncated or damaged; fetch it again") from None


def _reader(path: Path) -> Reader:
    """The one for this kind of file."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder; name the file of weights in it")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except FileNotFoundError:
        raise ModelError(f"there is no weight file {path}") from None
    except OSError as error:
        raise ModelError(f"the weight file {path} cannot be read: {error.strerror or error}") from None
    if not start:
        raise ModelError(f"the weight file {path} is empty")
    if start.startswith(HDF5):
        return read_hdf5
    if start.startswith(ZIP):
        with _blaming(path):
            return _zip_reader(path)
    if start[8:9] == b"{":  # behind a length, whose first byte may look like a pickle's
        return read_safetensors
    if start.startswith(PICKLE):
        return read_pickles
    kind = next((kind for magic, kind in OTHERS.items() if start.lstrip().startswith(magic)), None)
    if kind:
        raise ModelError(f"{path} is no file of weights but {kind}")
    raise ModelError(
        f"{path} is no file of weights: neither HDF5 or .keras of Keras, nor .safetensors, .pth or .npz"
    )


def _zip_reader(path: Path) -> Reader:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if WEIGHTS in names:
        return read_keras
    if any(name.endswith("/data.pkl") for name in names):
        return read_zip
    if all(name.endswith(".npy") for name in names):
        return read_npz
    raise ModelError(f"{path} is a zip archive without weights: neither .keras, nor .pth, nor .npz")
