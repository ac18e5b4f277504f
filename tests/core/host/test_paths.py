"""Names of files: where results go, what a folder holds, what must not be overwritten."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnkit import Image, OutputError, UsageError
from cnnkit.host.paths import Destination, destination, destinations, expand, read_manifest, stem_of

JOB = {"operation": "x", "sources": [], "model": None, "options": {}, "seed": 0}
MANIFEST = {"cnnkit": "1", "job": JOB, "settings": {}, "picture": None, "model": None}


def stems(sources: list[Any], output: str | None = None) -> list[str]:
    return [str(place.stem) for place in destinations("edges", sources, output)]


def test_beside_the_source() -> None:
    memory = Image.load(np.zeros((1, 1), np.uint8))
    sources = ["a/photo.jpg", Path("b/photo.jpg"), "sample:portrait", "-", memory, b"bytes"]
    assert stems(sources) == [
        "a/photo.edges", "b/photo.edges", "portrait.edges", "stdin.edges", "picture.edges", "picture_2.edges"
    ]  # fmt: skip


def test_the_same_stem_is_told_apart(tmp_path: Path) -> None:
    found = stems(["a/x.png", "b/x.png", "x.jpg", "x_2.png"], "out/")
    assert found == ["out/x.edges", "out/x_2.edges", "out/x_3.edges", "out/x_2_2.edges"]
    assert stems(["a.png"], str(tmp_path)) == [
        str(tmp_path / "a.edges")
    ]  # a folder that is there needs no slash


def test_to_a_file() -> None:
    assert destination("x", "edges", "a/b.JPG") == Destination(Path("a/b"), ".jpg")
    assert (
        destination("x", "edges", "a/b.json")
        == destination("x", "edges", "a/b.npz")
        == Destination(Path("a/b"))
    )
    with pytest.raises(UsageError, match=r"ends in '\.gif'.*\.png, \.jpg"):
        destination("x", "edges", "b.gif")
    with pytest.raises(UsageError, match="one file, but there are 2"):
        destinations("edges", ["a", "b"], "b.png")


def test_stems() -> None:
    assert stem_of("a/b.tar.gz") == "b.tar" and stem_of("sample:shapes") == "shapes"
    assert stem_of(np.zeros(3)) == stem_of(b"") == "picture"


def test_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt", "deep/d.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = str(tmp_path)
    assert expand([root, "-", "sample:shapes", b"x"]) == [
        f"{root}/a.JPG",
        f"{root}/b.png",
        "-",
        "sample:shapes",
        b"x",
    ]
    assert expand([root], recursive=True) == [f"{root}/a.JPG", f"{root}/b.png", f"{root}/deep/d.gif"]
    Destination(tmp_path / "b.edges").write({".png": b"", ".grid.png": b"", ".npz": b""}, MANIFEST, False)
    assert expand([root]) == [f"{root}/a.JPG", f"{root}/b.png"]
    (tmp_path / "empty").mkdir()
    assert expand([tmp_path / "empty"]) == [tmp_path / "empty"]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "7", "\0", '{"job": {}}', '{"cnnkit": "1", "job": 3, "outputs": {}}', "[" * 99999,
     json.dumps(MANIFEST), json.dumps({**MANIFEST, "outputs": []})],
)  # fmt: skip
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert read_manifest(tmp_path / "x.json") is None
    assert read_manifest(tmp_path) is None and read_manifest(tmp_path / "missing") is None


def test_only_what_cnnkit_wrote_is_overwritten(tmp_path: Path) -> None:
    place = Destination(tmp_path / "new" / "photo.edges")
    manifest = dict(MANIFEST)
    paths = place.write({".png": b"one", ".npz": b"two"}, manifest, False)
    assert [path.name for path in paths] == ["photo.edges.png", "photo.edges.npz", "photo.edges.json"]
    place.write({".png": b"three", ".npz": b"two"}, manifest, False)
    assert (tmp_path / "new" / "photo.edges.png").read_bytes() == b"three"

    place.path(".npz").write_bytes(b"edited")
    with pytest.raises(OutputError, match=r"photo\.edges\.npz exists and is not what cnnkit wrote there"):
        place.write({".png": b"four", ".npz": b"two"}, manifest, False)
    assert place.path(".png").read_bytes() == b"three"
    place.write({".png": b"four", ".npz": b"two"}, manifest, True)
    assert place.path(".npz").read_bytes() == b"two"

    place.manifest.write_text("mine")
    with pytest.raises(OutputError, match=r"photo\.edges\.json exists"):
        place.write({}, manifest, False)
