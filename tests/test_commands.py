"""The commands on the pages of the documentation: each runs, with small settings."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import painters
import pytest

from cnnkit import Image, Model
from cnnkit.host.host import default_host
from cnnkit.host.options import fields_of
from cnnkit.models import default
from cnnkit.models.small_vgg import untrained

ROOT = Path(__file__).parents[1]
GUIDES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```sh" in page.read_text("utf-8")]
PAGES = [ROOT / "README.md", *(page for page in GUIDES if page.stem != "plugins")]
"""Those with commands; the package that the page on plugins makes is tried in tests/cli/test_packages.py."""

ELSEWHERE = ("cnnkit models pull", "--weights my_vgg16.weights.h5")
"""In commands that need the net or someone's file, and have tests of their own."""
FAILING = {"cnnkit run occlusion sample:portrait broken.jpg --report portrait.html": 1}
"""Commands that show what happens when an input fails, with their exit codes."""
LABELS = ["goldfish", "daisy", "volcano", "tabby", "lynx", *(f"thing {number}" for number in range(995))]


def commands(page: Path, reading: ModuleType) -> list[str]:
    lines = [line.split(" #")[0] for block in reading.blocks(page) for line in reading.commands(block)]
    ours = [line.strip() for line in lines if line.startswith("cnnkit ")]
    return [line for line in ours if not any(word in line for word in ELSEWHERE)]


def quick(command: str, reading: ModuleType) -> str:
    """With small settings, also of options that the command leaves out."""
    verb, *words = shlex.split(command)[1:]
    if verb not in ("run", "sweep"):
        return command
    known = {field.name for field in fields_of(default_host().operation(words[0]).options)}
    for option, value in reading.SMALL.items():
        if f"--{option}" not in words and option.replace("-", "_") in known:
            command += f" --{option} {value}"
    return str(reading.smaller(command))


def lay_files(lines: str, folder: Path) -> None:
    """What the commands name: pictures, folders of class folders, networks, and names of classes."""
    for name in re.findall(r"[\w-]+\.(?:jpg|png)\b", lines.replace("*.jpg", "photo.jpg")):
        Image.load("sample:portrait").resized(60, 72).save(folder / name)
    if "broken.jpg" in lines:
        (folder / "broken.jpg").write_bytes(b"no picture")
    for name in "photos", "pictures/crab", "pictures/pizza", "caltech-5/crab", "caltech-5/pizza":
        (folder / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.load("sample:stripes" if name.endswith("pizza") else "sample:shapes")
            picture.resized(40 + number, 50).save(folder / name / f"{number}.png")
    for name in re.findall(r"--classes (\S+\.csv)", lines):
        (folder / name).write_text("folder,label,set\ncrab,crab,\npizza,pizza,\n")
    for name in {"labels.txt", *re.findall(r"\w+\.txt", lines)}:
        (folder / name).write_text("\n".join(LABELS))
    classifier = untrained(classes=len(LABELS)).adjusted(labels=folder / "labels.txt")
    small = Model.load(default.locate())
    home = folder / ".home" / "models"
    home.mkdir(parents=True)
    networks = {"mynet": classifier, "net": classifier, "mobilenet_v2": classifier}
    networks |= {"style": painters.style(), "upscaler": painters.super_resolution(2)}
    for name, model in {**networks, "super-resolution": networks["upscaler"]}.items():
        model.save(folder / f"{name}.onnx")
    classifier.save(home / "mobilenet_v2.onnx")
    for name in "vgg19", "vgg16-notop", "vgg19-notop":
        small.save(home / f"{name}.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_run(page: Path, recipes: Any, tmp_path: Path) -> None:
    reading = recipes("reading")
    lines = commands(page, reading)
    assert lines
    lay_files("\n".join(lines), tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CNNKIT_HOME": str(tmp_path / ".home"), "CNNKIT_OFFLINE": "1"}
    for line in lines:
        small = quick(line, reading)
        done = subprocess.run(
            ["bash", "-c", small], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == FAILING.get(line, 0), f"{small}: {done.stderr[-2000:]}"
