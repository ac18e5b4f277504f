"""Evaluation as a user meets it: every picture keeps its answer, and what comes out says what is so."""

import csv
import io
import json
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from paged import Page
from pictured_classes import CLASSES, pictured_classes
from PIL import Image as pillow
from said import Said
from small_network import small_network
from typer.testing import CliRunner

import cnnkit
from cnnkit import Builder, Host, Image, Model, Preprocessing, Result, Settings, UsageError
from cnnkit.cli.main import app

NAMES = ("one", "two", "three", "red", "blue", "four", "striped", "five")
"""Of the network that guesses: so that blue ones are right, and the others are not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictured_classes(tmp_path_factory.mktemp("data") / "things")


@pytest.fixture(scope="module")
def guessing() -> Model:
    """A network that has learned nothing and takes pictures of any size."""
    return replace(small_network(), labels=NAMES, preprocessing=Preprocessing.preset("tf"))


@pytest.fixture(scope="module")
def knowing(folder: Path) -> Model:
    result = cnnkit.run(
        "train", folder, model=small_network("nchw", (24, 24)), host=Host(), epochs=40, rate=0.1
    )
    return Model.of(onnx.load_from_string(result.files["onnx"]))


def evaluated(folder: Path, model: Model, **options: Any) -> Result:
    return cnnkit.run("evaluate", folder, model=model, host=Host(), **{"explain": "none", **options})


def rows(result: Result, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.files[name].decode())))


# Which answer is whose


def test_every_picture_keeps_its_own_answer(
    tmp_path: Path, guessing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the folder is listed, whatever loads first, and with unreadable ones between."""
    root = pictured_classes(tmp_path / "things", each=5)
    for name, broken in (("blue", "2b.png"), ("red", "0.jpg"), ("striped", "9.png")):
        (root / name / broken).write_bytes(b"no picture")
    pillow.new("RGB", (40, 17), "navy").save(root / "blue" / "3a.png")
    alone, host = {}, Host()
    for path in root.rglob("*.png"):
        if path.name not in ("2b.png", "9.png"):
            said = cnnkit.run("classify", path, model=guessing, host=host).data["classes"][0]
            alone[path.relative_to(root).as_posix()] = (said["label"], said["score"])
    assert len(alone) == len(set(alone.values())) == 16

    chance, listdir, walk, load = random.Random(0), os.listdir, os.walk, Image.load

    def shuffled_walk(top: Any) -> Any:
        return [(place, dirs, chance.sample(names, len(names))) for place, dirs, names in walk(top)][::-1]

    def unpunctual(source: Any) -> Image:
        time.sleep(chance.uniform(0, 0.005))
        return load(source)

    monkeypatch.setattr(os, "walk", shuffled_walk)
    monkeypatch.setattr(os, "listdir", lambda place: chance.sample(found := listdir(place), len(found)))
    monkeypatch.setattr(Image, "load", staticmethod(unpunctual))
    for settings in (Settings(), Settings(threads=4, batch=3)):
        result = evaluated(root, guessing, settings=settings)
        found = rows(result, "predictions.csv")
        assert [row["file"] for row in found] == sorted(alone)
        for row in found:
            label, score = alone[row["file"]]
            assert row["truth"] == row["file"].split("/")[0] and row["predicted"] == label
            assert float(row["probability"]) == pytest.approx(score, rel=1e-5)
        left_out = [one["file"] for one in result.data["unreadable"]]
        assert left_out == ["blue/2b.png", "red/0.jpg", "striped/9.png"]


def test_the_wrong_ones(folder: Path, guessing: Model) -> None:
    """The surest first, and the same in every place."""
    result = evaluated(folder, guessing)
    all_, wrong = rows(result, "predictions.csv"), rows(result, "wrong.csv")
    expected = [row for row in all_ if row["truth"] != row["predicted"]]
    assert wrong == sorted(expected, key=lambda row: (-float(row["probability"]), row["file"]))
    assert [row["file"] for row in result.data["wrong"]] == [row["file"] for row in wrong]
    assert result.data["accuracy"] == pytest.approx(1 - len(wrong) / len(all_))
    confusion = rows(result, "confusion.csv")
    assert [row["truth"] for row in confusion] == ["red", "blue", "striped"]
    counted = {(row["truth"], name): int(count) for row in confusion for name, count in [*row.items()][1:]}
    for (truth, predicted), count in counted.items():
        assert count == sum(row["truth"] == truth and row["predicted"] == predicted for row in all_)
    assert sum(counted.values()) == 24
    pairs = {(one["truth"], one["predicted"]): one["pictures"] for one in result.data["confusions"]}
    assert pairs == {("red", "striped"): 8, ("striped", "blue"): 8}


# What is shown


def test_maps_for_the_truth_and_for_what_was_predicted(folder: Path, guessing: Model) -> None:
    """In this order: those of the operation itself, at the place where the sheet has them."""
    result = evaluated(folder, guessing, explain="cam", shown=1)
    assert result.pictures.keys() == {"", "calibration", "wrong", "right"}
    one = result.data["wrong"][0]
    sheet = result.pictures["wrong"].pixels.astype(int)
    for place, name in enumerate((one["truth"], one["predicted"]), 1):
        drawn = cnnkit.run(
            "cam", folder / one["file"], model=guessing, host=Host(), target=name, plain=True
        ).picture
        enlarged = drawn.pixels.repeat(8, 0).repeat(8, 1)
        side, left = len(enlarged), 28 + 206 * place
        column = sheet[:, left : left + side]
        assert any(
            np.array_equal(column[top : top + side], enlarged) for top in range(len(column) - side + 1)
        )


def test_the_page_is_whole_and_asks_for_nothing(folder: Path, guessing: Model, tmp_path: Path) -> None:
    root = pictured_classes(tmp_path / "<things> $x$ 猫", each=2)
    (root / "red").rename(root / "<b>red")
    (root / "<b>red" / "0.png").rename(root / "<b>red" / 'it\'s "&".png')
    model = replace(guessing, labels=tuple(name.replace("red", "<b>red") for name in NAMES), name="a<script>")
    result = evaluated(root, model, shown=3, explain="grad-cam")
    page = Page(result.files["html"])
    assert page.asks_nothing() and page.of("b") == []
    assert len(page.of("img")) == 2 + 3 * len(page.of("figure"))
    wrong = [one["file"] for one in result.data["wrong"]]
    assert all(file in page.text for file in wrong) and "a<script> on <things> $x$ 猫" in page.text
    assert "http:" not in result.files["html"].decode() and "https:" not in result.files["html"].decode()


def test_a_network_without_a_plane(folder: Path) -> None:
    """Occlusion takes the place of grad-cam, which is said once."""
    b = Builder("flat")
    x = b.op.Flatten(b.input("picture", ["batch", 3, 8, 8]))
    weights = np.random.default_rng(0).standard_normal((192, 3)).astype(np.float32)
    b.output(b.op.MatMul(x, b.constant(weights, "w"), name="scores"))
    unit = Preprocessing(height=8, width=8)
    model = Model.of(b.model(), preprocessing=unit, labels=CLASSES)
    listener = Said()
    result = evaluated(folder, model, explain="grad-cam", shown=2, reporter=listener)
    assert result.data["explained_by"] == "occlusion"
    (line,) = listener.lines
    assert line.endswith("The heat maps are of occlusion instead.")


def test_odd_folders(tmp_path: Path, guessing: Model) -> None:
    root = tmp_path / "things"
    (root / "red").mkdir(parents=True)
    pillow.new("LA", (9, 31)).save(root / "red" / "alone.png")
    result = evaluated(root, guessing, explain="grad-cam")
    assert result.data["pictures"] == 1 and result.data["per_class"][0]["pictures"] == 1
    for mode in ("L", "RGBA", "P", "1", "I;16"):
        pillow.new(mode, (9, 31)).save(root / "red" / f"{mode.replace(';', '')}.png")
    assert evaluated(root, guessing).data["pictures"] == 6
    for path in (root / "red").iterdir():
        path.write_text("no picture")
    with pytest.raises(UsageError, match=r"none of the 6 pictures in .* can be read"):
        evaluated(root, guessing)


# Training pictures


def test_a_changed_folder_is_noticed(folder: Path, knowing: Model, tmp_path: Path) -> None:
    listener = Said()
    evaluated(folder, knowing, set="validation", reporter=listener)
    assert not listener.lines
    evaluated(pictured_classes(tmp_path / "things", each=11), knowing, set="validation", reporter=listener)
    assert listener.lines[-1].startswith("the network's training held out 4 pictures, and these are 6: ")


def test_from_the_shell(folder: Path, knowing: Model, tmp_path: Path) -> None:
    knowing.save(tmp_path / "net.onnx")
    words = [
        "run",
        "evaluate",
        str(folder),
        "-m",
        str(tmp_path / "net.onnx"),
        "-o",
        str(tmp_path / "out") + "/",
    ]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    assert "24 pictures: accuracy 100.0%, 24 are right" in run.stdout
    assert "the 20 pictures that the network learned from seem to be among these 24" in run.stderr
    written = {path.name.removeprefix("things.evaluate.") for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("png", "calibration.png", "right.png", "html", "json"),
        *("predictions.csv", "wrong.csv", "confusion.csv"),
    }
    told = json.loads((tmp_path / "out" / "things.evaluate.json").read_text())["data"]
    assert told["accuracy"] == told["top"]["1"] == 1 and told["wrong"] == [] and told["set"] == "all"
    assert sum(row["pictures"] for row in told["calibration"]) == 24
    held_out = CliRunner().invoke(app, [*words, "--set", "validation", "--force", "--json"])
    assert json.loads(held_out.stdout)["pictures"] == 4 and "learned" not in held_out.stderr
    other = pictured_classes(tmp_path / "other", each=1)
    (other / "red").rename(other / "reed")
    refused = CliRunner().invoke(app, [*words[:2], str(other), *words[3:], "--force"])
    assert refused.exit_code == 2
    assert re.search(r"'reed' is no class of .* Did you mean 'red'\?", " ".join(refused.stderr.split()))
