"""The pictures in docs/: each is small, shown on its page, and made by a script, which runs."""

import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vgg_blocks import vgg19_blocks

from cnnkit import Image, Model
from cnnkit.models.mobilenet_v2 import mobilenet_v2
from cnnkit.models.vgg import CONVOLUTIONS

DOCS = Path(__file__).parents[1] / "docs"
MAKERS = DOCS / "recipes" / "pictures" / "pages"
PICTURES = DOCS / "pictures"
KINDS = {".gif", ".jpg", ".png", ".svg", ".webp"}

FREE = ("free/chelsea.png", "free/coffee.png", "free/rocket.jpg", "free/brick.png")
STYLES = ("style/composition_vii.jpg", "style/great_wave.jpg", "style/starry_night.jpg")
CLASSES = ("crab", "dalmatian", "elephant", "pizza", "sunflower")
EACH = 6
"""Pictures of a class."""


def pages() -> list[str]:
    """The pages with pictures of their own, by their paths below docs/."""
    return sorted({page_of(picture) for picture in PICTURES.rglob("*.*")})


def page_of(picture: Path) -> str:
    return picture.relative_to(PICTURES).as_posix().partition(".")[0]


def shown_on(page: str) -> set[str]:
    """The pictures of its own that a page shows, by their paths below docs/pictures/."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    named = re.findall(r"!\[[^\]]+\]\((?:\.\./)*pictures/([^)]+)\)", text)
    return {picture for picture in named if picture.startswith(f"{page}.")}


def test_pictures_are_small_and_shown(recipes: Any) -> None:
    for picture in DOCS.rglob("*.*"):
        if picture.suffix in KINDS:
            name = picture.relative_to(PICTURES).as_posix()
            assert name in shown_on(page_of(picture)), name
            assert picture.stat().st_size < recipes("workshop").LARGEST, name


def test_pages_with_pictures_have_a_maker(recipes: Any) -> None:
    assert recipes("workshop").pages() == pages()


# Whether they can be made


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small data, named as the real; in its `home` are small networks, as if pulled."""
    folder = tmp_path_factory.mktemp("data")
    for name in FREE + STYLES:
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        sample(len(name)).save(file)
    classes = folder / "caltech-5"
    for number in range(EACH * len(CLASSES)):
        each, label = divmod(number, len(CLASSES))
        (classes / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        picture = sample(label).resized(40 + number, 50)
        picture.save(classes / CLASSES[label] / f"image_{1 + each:04}.jpg")
    (folder / "datasets").mkdir()
    with tarfile.open(folder / "datasets" / "caltech-5.tar", "w") as archive:
        for label in CLASSES:
            archive.add(classes / label, f"caltech-5/{label}")
    models = folder / "home" / "models"
    models.mkdir(parents=True)
    for name in CONVOLUTIONS:
        narrow_vgg(name).save(models / f"{name}-notop.onnx")
    labels = ("cup", "space shuttle", "tabby", *map(str, range(997)))
    small = replace(mobilenet_v2(alpha=0.35, size=(64, 64)), labels=labels)
    small.save(models / "mobilenet_v2.onnx")
    return folder


def sample(number: int) -> Image:
    name = ("portrait", "shapes", "stripes")[number % 3]
    return Image.load(f"sample:{name}").resized(60, 72)


def narrow_vgg(name: str, width: int = 8) -> Model:
    """The layers of a VGG, each of a few random channels."""
    random = np.random.default_rng(0)
    arrays = {}
    for block, count in enumerate(CONVOLUTIONS[name], 1):
        for number in range(1, count + 1):
            inputs = 3 if block == number == 1 else width
            kernel = random.standard_normal((3, 3, inputs, width), np.float32)
            arrays[f"block{block}_conv{number}.kernel"] = kernel * np.float32(np.sqrt(2 / (9 * inputs)))
            arrays[f"block{block}_conv{number}.bias"] = np.zeros(width, np.float32)
    return vgg19_blocks(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_the_pictures_are_made(
    page: str, recipes: Any, stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNKIT_HOME", str(stand_ins / "home"))
    workshop = recipes("workshop").Workshop(page, stand_ins, tmp_path, small=True)
    workshop.make()
    made = {path.relative_to(workshop.pictures).as_posix() for path in workshop.pictures.rglob("*.*")}
    assert made == shown_on(page)
