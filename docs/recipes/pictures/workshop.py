"""Where the pictures of a page are made, and kept in docs/pictures/."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Collection
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage
from reading import Block, blocks, commands, smaller
from stock import network

import cnnkit

DOCS = Path(__file__).parents[2]
PICTURES = DOCS / "pictures"
MAKERS = Path(__file__).parent / "pages"

LARGEST = 80_000
"""Bytes of a picture in docs/."""


def pages() -> list[str]:
    """Those whose pictures are made here, by their paths below docs/, sorted."""
    found = [maker.relative_to(MAKERS).with_suffix("") for maker in MAKERS.rglob("*.py")]
    return sorted(path.as_posix().replace("_", "-") for path in found)


class Workshop:
    """A page with a folder of its own, in which the files lie that the page names.

    With `small` settings it is only seen whether its pictures can be made: they stay in the folder.
    """

    def __init__(self, page: str, data: Path, folder: Path, small: bool = False) -> None:
        self.page = page
        self.data = data
        self.folder = folder
        self.small = small
        self.pictures = folder / "pictures of the page" if small else PICTURES
        self._home = folder / ".home"

    def make(self) -> None:
        """Make the pictures of the page, as its module says."""
        module = ".".join(["pages", *self.page.replace("-", "_").split("/")])
        import_module(module).make(self)

    def bring(self, **files: str) -> None:
        """Lay pictures of the data into the folder: ``bring(cat="images/free/chelsea.png")`` is cat.jpg."""
        for name, source in files.items():
            picture = PillowImage.open(self.data / source).convert("RGB")
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(self.folder / f"{name}.jpg", quality=95, subsampling=0)

    def bring_classes(self, folder: str, *classes: str) -> None:
        """Lay folders of classes out of caltech-5 into a folder."""
        with tarfile.open(self.data / "datasets" / "caltech-5.tar") as archive:
            for member in archive:
                _, label, *rest = Path(member.name).parts
                if label in classes and rest:
                    member.name = f"{folder}/{label}/{rest[0]}"
                    archive.extract(member, self.folder, filter="data")

    def bring_networks(self, *names: str) -> None:
        """Have networks under the names that `--model` takes."""
        models = self._home / "models"
        models.mkdir(parents=True, exist_ok=True)
        for name in names:
            network(name, self.data).save(models / f"{name}.onnx")

    def run(self, languages: Collection[str] = ("python", "sh")) -> None:
        """The page from top to bottom, or what is in some of its languages; nothing is pulled."""
        names = {"__name__": "page"}
        for block in blocks(DOCS / f"{self.page}.md"):
            if block.language in languages:
                self._run_block(block, names)

    def run_command(self, command: str) -> None:
        """A line of a shell, in the folder. Raises CalledProcessError when it fails."""
        command = smaller(command) if self.small else command
        print(f"$ {command}", flush=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "CNNKIT_HOME": str(self._home)}
        subprocess.run(["bash", "-c", command], cwd=self.folder, env=environment, check=True)

    def load(self, file: str) -> cnnkit.Image:
        """A picture of the folder."""
        return cnnkit.Image.load(self.folder / file)

    def found(self, manifest: str) -> Any:
        """The data that a run found, of a manifest in the folder."""
        return json.loads((self.folder / manifest).read_text("utf-8"))["data"]

    def keep(self, name: str, picture: str | cnnkit.Image, width: int = 0) -> None:
        """Keep a picture, a file of the folder or one in memory, as PAGE.NAME among those of the docs.

        It is reduced to `width` pixels, or fewer if the file would be too large.
        """
        image = self.load(picture) if isinstance(picture, str) else picture
        pixels = PillowImage.fromarray(image.flattened().pixels)
        width = min(width or pixels.width, pixels.width)
        encode = _jpeg if name.endswith(".jpg") else _png
        while len(content := encode(_of_width(pixels, width))) >= LARGEST:
            width -= width // 20
        kept = self.pictures / f"{self.page}.{name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)

    def _run_block(self, block: Block, names: dict[str, str]) -> None:
        if block.language == "python":
            with chdir(self.folder):
                exec(compile(block.text, self.page, "exec"), names)
        for command in commands(block):
            if not command.startswith("cnnkit models pull"):
                self.run_command(command)


def _of_width(picture: PillowImage.Image, width: int) -> PillowImage.Image:
    size = width, round(picture.height * width / picture.width)
    return picture.resize(size, PillowImage.Resampling.LANCZOS)


def _jpeg(picture: PillowImage.Image) -> bytes:
    """At the highest quality by which it is small enough, or at the lowest that is good enough."""
    for quality in (92, 88, 84, 80, 76, 72, 68):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() < LARGEST:
            break
    return buffer.getvalue()


def _png(picture: PillowImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.quantize(256, dither=PillowImage.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
