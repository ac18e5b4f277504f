"""`--report` at a shell: what is refused before anything is computed, and what is written however it ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CHROMIUM, browsing
from paged import Page

from cnnkit import Image

from .conftest import Ended

Run = Callable[..., Ended]

STOPPING = """
from dataclasses import dataclass
from cnnkit import Operation, Result, hookimpl

@dataclass(frozen=True)
class Options:
    '''Show what there is, and be interrupted at pictures whose names begin with stop.'''

def stopping(picture, model, options, context):
    context.emit(Result({"step1": picture}))
    if picture.name.startswith("stop"):
        raise KeyboardInterrupt
    return Result({"": picture.repainted(255 - picture.pixels)}, text=f"{picture.name} turned")

@hookimpl
def cnnkit_operations():
    return [Operation("stopping", stopping, Options, needs="nothing")]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, write_distribution: Callable[..., Path]) -> Path:
    entries = {"cnnkit.operations": {"stopping": "stopping"}}
    folder = tmp_path_factory.mktemp("stopping")
    return write_distribution(folder, "cnnkit-stopping", entries, {"stopping": STOPPING})


def test_an_interrupted_run_writes_the_page_of_what_there_is(
    cnnkit: Run, picture: Path, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "stop.png").write_bytes(picture.read_bytes())
    words = ["run", "stopping", "photo.png", "stop.png", "later.png", "--report", "page.html"]
    done = cnnkit(*words, sites=(site,))
    assert done.code == 130 and "wrote page.html" in done.err and "interrupted" in done.err
    assert done.out == "photo turned\n"
    page = Page((tmp_path / "page.html").read_bytes())
    assert page.asks_nothing() and "Interrupted." in page.text and "later" not in page.text
    assert "stop.png" in page.text and "interrupted: this is what there was by then" in page.text
    turned = Image.load(picture).pixels
    seen = [(words, image.pixels.tolist()) for words, _, image in page.pictures]
    assert [words for words, _ in seen] == ["stopping of photo.png", "step1", "stop.png", "step1", ""]
    assert seen[0][1] == (255 - turned).tolist() and seen[3][1] == turned.tolist()

    again = cnnkit(
        "run", "stopping", "photo.png", "--skip-existing", "--json", "--report", "page.html", sites=(site,)
    )
    assert again.code == 0 and json.loads(again.out)["skipped"]
    page = Page((tmp_path / "page.html").read_bytes())
    assert "made by an earlier run" in page.text and "photo turned" in page.pre
    assert len(page.of("input")) == 1 and "stop.png" not in page.text


def test_refused_before_computing(cnnkit: Run, picture: Path, trouble: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    for name, code, words in (
        ("page.pdf", 2, "one HTML page, with a name such as report.html, not page.pdf"),
        ("mine.html", 1, "mine.html exists and is not what cnnkit wrote there"),
    ):
        for command in (["run", "noise"], ["sweep", "noise"]):
            done = cnnkit(*command, picture.name, "--report", name, sites=(trouble,))
            assert done.code == code and words in done.err and done.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "mine.html"}
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_pictures_in_a_row_and_a_sweep(cnnkit: Run, picture: Path, trouble: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    words = ["run", "noise", "photo.png", "bad.png", "--force", "--report", "page.html", "--json"]
    done = cnnkit(*words, sites=(trouble,))
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1 and "error" in lines[1]
    page = Page((tmp_path / "page.html").read_bytes())
    assert "'bad.png' is empty" in page.text and ["first", str(lines[0]["first"])] in page.rows
    noise = Image.load(tmp_path / "photo.noise.png").pixels
    assert noise.tolist() in [image.pixels.tolist() for _, _, image in page.pictures]

    done = cnnkit("sweep", "noise", "photo.png", "--seed", "1,2", "--report", "page.html", sites=(trouble,))
    assert done.code == 0 and "wrote page.html" in done.err
    page = Page((tmp_path / "page.html").read_bytes())
    cells = [
        Image.load(path).pixels.tolist() for path in sorted((tmp_path / "noise.sweep").glob("photo*.png"))
    ]
    shown = [image.pixels.tolist() for _, _, image in page.pictures]
    assert len(cells) == 2 and all(cell in shown for cell in cells)
    assert "sweep of noise" in page.text and "seed 1" in page.text and page.asks_nothing()


def test_from_standard_input(cnnkit: Run, picture: Path, site: Path, tmp_path: Path) -> None:
    words = ["run", "stopping", "-", "-o", "-", "--report", "page.html"]
    done = cnnkit(*words, sites=(site,), stdin=picture.read_bytes())
    assert done.code == 0 and Image.load(done.stdout).size == (4, 4)
    page = Page((tmp_path / "page.html").read_bytes())
    assert len(page.of("input")) == 1 and "stdin" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_chromium(cnnkit: Run, tmp_path: Path) -> None:
    """It asks nothing of the network, its slider uncovers the picture, and it fits a phone."""
    import numpy as np

    (tmp_path / "bad<b>.jpg").write_bytes(b"no picture")
    words = ["run", "occlusion", "sample:portrait", "bad<b>.jpg", "--patch", "48", "--stride", "40"]
    assert cnnkit(*words, "--report", "page.html").code == 1
    with browsing(tmp_path / "profile") as browser:
        for width, dark in ((1200, False), (390, True)):
            browser.open(tmp_path / "page.html", width, 800, dark)
            assert browser.value("document.documentElement.scrollWidth") == width
            browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert browser.value("document.documentElement.scrollWidth") == width
            assert browser.value("[...document.images].every(each => each.naturalWidth > 0)")
            paper = browser.value("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(23, 24, 27)" if dark else "rgb(255, 255, 255)")
            browser.value("document.querySelector('.slider').scrollIntoView()")

            def seen() -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
                return Image.load(browser.screenshot()).pixels.astype(np.int64)

            browser.value("document.querySelector('.slider input').focus()")
            browser.press("End")
            assert browser.value("document.querySelector('.slider input').value") == "100"
            original = seen()
            browser.press("Home")
            heat = seen()
            changed = np.abs(original - heat).max(-1) > 40
            assert changed.mean() > 0.05
            box = browser.value("JSON.stringify(document.querySelector('.part').getBoundingClientRect())")
            part = json.loads(box)
            browser.click(part["left"] + 0.75 * part["width"], part["top"] + 0.5 * part["height"])
            assert browser.value("document.querySelector('.slider input').value") == "75"
            across = part["left"] + part["width"] * np.array([0.05, 0.70, 0.80, 0.95])
            left, middle, right, end = across.round().astype(int)
            down = slice(max(0, round(part["top"])), round(part["bottom"]))
            now = seen()
            assert (now[down, left:middle] == original[down, left:middle]).mean() > 0.9
            assert (now[down, right:end] == heat[down, right:end]).mean() > 0.9
            browser.press("ArrowRight")
            assert browser.value("document.querySelector('.slider input').value") == "76"
            picture = browser.screenshot(whole=True)
            if folder := os.environ.get("CNNKIT_TEST_SCREENSHOTS"):
                Path(folder, f"report-{width}.png").write_bytes(picture)
        assert browser.complaints == []
        asked = [address for address in browser.requests if not address.startswith("data:")]
        assert asked == [(tmp_path / "page.html").as_uri()] * 2
