"""Folders of class folders: Keras' rules by hand and against Keras, splits that hold, tables, mistakes."""

import csv
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnnkit import Dataset, Image, Preprocessing, UsageError, manifest_of
from cnnkit.images.dataset import permutation

GOLDEN = {
    1337: [6, 3, 0, 4, 5, 2, 1, 9, 8, 7],
    123: [4, 0, 7, 5, 8, 3, 1, 6, 9, 2],
    42: [8, 1, 5, 0, 7, 2, 9, 4, 3, 6],
}
"""What Keras makes of ten pictures."""


def folder_of(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("seed", GOLDEN)
def test_keras_shuffles(seed: int) -> None:
    assert permutation(10, seed).tolist() == GOLDEN[seed]


def test_keras_finds(tmp_path: Path) -> None:
    """Classes and files in the order of their names; below a class everything belongs to it."""
    root = folder_of(
        tmp_path,
        "dog/b.PNG", "dog/a.jpeg", "dog/puppies/0.jpg", "dog/notes.txt", "Dog/1.gif", ".cache/x.png",
        "cat/10.bmp", "cat/9.bmp", "cat/old/tiny/z.jpg", "cat/old/y.jpg", "loose.png",
    )  # fmt: skip
    (root / "empty").mkdir()
    found = Dataset.index(root)
    assert found.classes == ("Dog", "cat", "dog", "empty")
    assert found.files == (
        "Dog/1.gif", "cat/10.bmp", "cat/9.bmp", "cat/old/y.jpg", "cat/old/tiny/z.jpg",
        "dog/a.jpeg", "dog/b.PNG", "dog/puppies/0.jpg",
    )  # fmt: skip
    assert found.labels.tolist() == [0, 1, 1, 1, 1, 2, 2, 2]
    assert found.counts == {"Dog": 1, "cat": 4, "dog": 3, "empty": 0}
    assert found.path(5) == root / "dog/a.jpeg" and found.label(5) == "dog"


def test_keras_splits(tmp_path: Path) -> None:
    found = Dataset.index(folder_of(tmp_path, *(f"{'ab'[k // 5]}/{k}.png" for k in range(10))))
    train, validation = found.split(0.2, seed=1337)
    assert [Path(name).stem for name in train.files] == list("63045219")
    assert [Path(name).stem for name in validation.files] == list("87")
    assert train.labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 1]
    assert validation.labels.tolist() == [1, 1]
    assert len(found.split(0.05, 0).validation) == 0
    assert found.shuffled(42).files == found.take(GOLDEN[42]).files


def test_a_hash_keeps_pictures_where_they_are(tmp_path: Path) -> None:
    names = [f"a/{k}.png" for k in range(1000)]
    before = Dataset.index(folder_of(tmp_path, *names)).split(0.25, 3, "hash")
    after = Dataset.index(folder_of(tmp_path, "a/new.png", "b/more.png")).split(0.25, 3, "hash")
    assert set(before.validation.files) <= set(after.validation.files)
    assert set(before.train.files) <= set(after.train.files)
    assert not set(after.train.files) & set(after.validation.files)
    assert 210 < len(before.validation) < 290
    other = Dataset.index(tmp_path).split(0.25, 4, "hash")
    assert set(other.validation.files) != set(after.validation.files)


def test_a_table_says_what_the_classes_are(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "data", "x/Faces/1.jpg", "x/Faces_easy/2.jpg", "y/val/n01/3.jpg", "y/n01/4.jpg", "z/5.jpg"
    )
    table = tmp_path / "classes.csv"
    table.write_text(
        "folder,label,set\nx/Faces,face,\nx/Faces_easy,face,\ny/n01,tench,train\ny/val/n01,tench,validation\n"
    )
    sets = Dataset.listed(root, table)
    assert list(sets) == ["", "train", "validation"]
    assert all(found.classes == ("face", "tench") for found in sets.values())
    assert sets[""].files == ("x/Faces/1.jpg", "x/Faces_easy/2.jpg") and sets[""].labels.tolist() == [0, 0]
    assert sets["train"].files == ("y/n01/4.jpg",) and sets["train"].labels.tolist() == [1]
    assert sets["validation"].files == ("y/val/n01/3.jpg",)


def test_the_manifest_lists_every_picture(tmp_path: Path) -> None:
    found = Dataset.index(folder_of(tmp_path, "a, b/1.png", "c/2.png", "c/3.png"))
    split = found.split(0.34, 0)
    rows = list(
        csv.DictReader(io.StringIO(manifest_of({"train": split.train, "validation": split.validation})))
    )
    assert sorted(row["file"] for row in rows) == sorted(found.files)
    assert {row["file"]: row["label"] for row in rows}["a, b/1.png"] == "a, b"
    assert [row["set"] for row in rows] == ["train", "train", "validation"]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("folder;label\na;b\n", "should have the columns 'folder' and 'label'; it has folder;label"),
        ("", "it has nothing"),
        ("folder,label\na,\n", "has no folder or no label in line 2"),
        ("folder,label\nnowhere,b\n", "names the folder 'nowhere', which .* does not have"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        Dataset.listed(tmp_path, tmp_path / "t.csv")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing"):
        Dataset.index(tmp_path / "absent")
    with pytest.raises(UsageError, match="has no folders in it"):
        Dataset.index(folder_of(tmp_path, "1.png"))
    with pytest.raises(UsageError, match="there is a file"):
        Dataset.index(tmp_path / "1.png")


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    for label in range(100):
        folder = tmp_path / f"class {label}"
        folder.mkdir()
        for number in range(1000):
            (folder / f"{number}.jpg").touch()
    begun = time.monotonic()
    split = Dataset.index(tmp_path).split(0.2, 0)
    text = manifest_of({"train": split.train, "validation": split.validation})
    assert time.monotonic() - begun < 10
    assert text.count("\n") == 100_001


@pytest.fixture(scope="module")
def caltech(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("caltech")
    with tarfile.open(data / "datasets" / "caltech-5.tar") as archive:
        archive.extractall(folder, filter="data")
    yield folder / "caltech-5"


@pytest.mark.oracle
def test_the_sets_are_those_of_keras(caltech: Path) -> None:
    import keras

    found = Dataset.index(caltech)
    for seed in range(10):
        for share in (0.1, 0.2, 0.5):
            sets = keras.utils.image_dataset_from_directory(
                caltech, validation_split=share, subset="both", seed=seed, image_size=(8, 8), verbose=False
            )
            split = found.split(share, seed)
            for theirs, ours in zip(sets, split, strict=True):
                assert [Path(name).relative_to(caltech).as_posix() for name in theirs.file_paths] == list(
                    ours.files
                )
                assert theirs.class_names == list(ours.classes)


@pytest.mark.oracle
def test_the_pixels_are_those_of_keras(caltech: Path, tmp_path: Path) -> None:
    """tf.image.resize, bilinear and without antialiasing, is our filter "bilinear-plain".

    TensorFlow decodes JPEG with quicker, coarser arithmetic (up to 4 levels off), so both read PNG.
    """
    import keras

    whole = Dataset.index(caltech)
    for index in range(0, len(whole), 20):
        path = tmp_path / whole.label(index) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.load(whole.path(index)).save(path)
    found = Dataset.index(tmp_path)
    theirs = keras.utils.image_dataset_from_directory(
        tmp_path, shuffle=False, image_size=(150, 170), batch_size=1, verbose=False
    )
    unit = Preprocessing.preset("raw", height=150, width=170, filter="bilinear-plain", layout="nhwc")
    pairs = list(zip(theirs, range(len(found)), strict=True))
    assert len(pairs) > 15
    for (pixels, label), index in pairs:
        ours = unit.apply(Image.load(found.path(index))).tensor
        assert int(label[0]) == found.labels[index]
        assert np.abs(ours - np.asarray(pixels)).max() < 0.01
