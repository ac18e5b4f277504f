"""What an operation returns."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from cnnkit.images.image import SUFFIXES, Image

if TYPE_CHECKING:
    from cnnkit.host.paths import Destination


@dataclass
class Result:
    """Pictures, arrays, figures and files by name, and what a person reads of them.

    The main picture has the name "" and is saved as `photo.occlusion.png`; a picture "grid" becomes
    `photo.occlusion.grid.png`. All arrays go into one `photo.occlusion.npz`; `data` is JSON-able and goes
    into the manifest `photo.occlusion.json`; a file "gradient.onnx" becomes `photo.occlusion.gradient.onnx`.
    `text` is what the command line prints. `manifest` says what the result was made of; the host fills it in.
    """

    pictures: dict[str, Image] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    text: str = ""
    manifest: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def picture(self) -> Image:
        """The main picture. Raises KeyError when there is none."""
        return self.pictures[""]

    def save(self, output: str | Path, force: bool = False) -> list[Path]:
        """Write everything and the manifest, and return the paths: into a folder ("heat/"), or to a file.

        Raises OutputError where something is in the way that cnnkit did not write, unless `force` is set.
        """
        from cnnkit.host.paths import destination, stem_of

        (source,) = self.manifest["job"]["sources"] or [self.manifest["job"]["operation"]]
        name = "picture" if source is None else stem_of(source)
        return self.write(destination(name, self.manifest["job"]["operation"], str(output)), force)

    def write(
        self,
        destination: "Destination",
        force: bool = False,
        unfinished: bool = False,
        kept: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """As `save`, to a `Destination`. `kept` are files there that belong to the result already."""
        from cnnkit.host.manifest import provenance

        contents = self.contents(destination.suffix, provenance(self.manifest))
        insets = {_ending(part): each.inset for part, each in self.pictures.items() if each.inset}
        told = {**self.manifest, "data": jsonable(self.data), "text": self.text, "insets": insets}
        told |= {"unfinished": True} if unfinished else {}
        return destination.write(contents, told, force, kept)

    def contents(self, suffix: str, provenance: Mapping[str, Any]) -> dict[str, bytes]:
        """The bytes of every output by the ending of its file's name, such as ".png" or ".grid.png"."""
        outputs = {
            _ending(part) + suffix: picture.encode(SUFFIXES[suffix], provenance)
            for part, picture in self.pictures.items()
        }
        if self.arrays:
            outputs[".npz"] = _npz(self.arrays)
        return outputs | {f".{name}": content for name, content in self.files.items()}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": self.text or repr(self.data)}
        if self.pictures:
            main = self.pictures.get("") or next(iter(self.pictures.values()))
            bundle["image/png"] = main.encode("png")
        return bundle


def jsonable(value: Any) -> Any:
    """The value with numpy's numbers and arrays made plain, and NaN and infinities made null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json_line(value: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)


def _ending(part: str) -> str:
    return f".{part}" if part else ""


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """As `np.savez_compressed`, which cannot take every name that a layer has; without the time of day."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = ZipInfo(f"{name}.npy")
            entry.compress_type = ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()
