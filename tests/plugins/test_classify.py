"""Classification: a network whose answer is known, and a plain loop over Pillow and ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image as pillow

import cnnkit
from cnnkit.runtime.device import onnxruntime

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def model(tmp_path: Path) -> cnnkit.Model:
    """Its logits are the mean red, green and blue of the picture, from 0 to 1."""
    b = cnnkit.Builder()
    x = b.op.Flatten(b.op.GlobalAveragePool(b.input("x", ["N", 3, 8, 8])))
    b.op.Softmax(b.op.Mul(x, np.float32(1 / 255), output="logits"), axis=1, output="p")
    b.output("p", ["N", 3])
    path, labels = tmp_path / "colours.onnx", tmp_path / "labels.txt"
    onnx.save(b.model(), path)
    labels.write_text("\n".join(COLOURS))
    return cnnkit.Model.load(path, preprocess="raw", labels=labels)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """red.png, green.png, blue.png, of different sizes."""
    paths = []
    for side, (name, colour) in enumerate(COLOURS.items(), start=8):
        path = tmp_path / f"{name}.png"
        cnnkit.Image.load(np.full((side, 2 * side, 3), colour, np.uint8)).save(path)
        paths.append(str(path))
    return paths


def results(pictures: list[Any], model: cnnkit.Model, **options: Any) -> list[cnnkit.Result]:
    return [outcome.unwrap() for outcome in cnnkit.map("classify", pictures, model=model, **options)]


def test_probabilities_best_first(model: cnnkit.Model, pictures: list[str]) -> None:
    share = np.exp(1) / (np.exp(1) + 2)
    for name, result in zip(COLOURS, results(pictures, model, top=2), strict=True):
        first, second = result.data["classes"]
        assert result.data["picture"] == first["label"] == name
        assert first["class"] == list(COLOURS).index(name)
        assert first["score"] == pytest.approx(share, rel=1e-6)
        assert second["score"] == pytest.approx((1 - share) / 2, rel=1e-6)


def test_logits(model: cnnkit.Model) -> None:
    result = cnnkit.run("classify", np.full((8, 8, 3), (51, 102, 0), np.uint8), model=model, score="logits")
    assert [row["label"] for row in result.data["classes"]] == ["green", "red", "blue"]
    assert [row["score"] for row in result.data["classes"]] == pytest.approx([0.4, 0.2, 0], rel=1e-6)


def test_the_table_that_a_person_reads(model: cnnkit.Model, pictures: list[str]) -> None:
    (result,) = results(pictures[:1], model, top=2)
    assert result.text == "red  0.576  red\n     0.212  green"


def test_without_labels(model: cnnkit.Model, tmp_path: Path) -> None:
    spec = cnnkit.ModelSpec(str(tmp_path / "colours.onnx"), preprocess="raw")
    result = cnnkit.run("classify", np.full((8, 8, 3), (0, 0, 255), np.uint8), model=spec, top=1)
    assert result.text == "picture  0.576  class 2"


def test_a_truth_counts_what_is_right(model: cnnkit.Model, pictures: list[str], tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("file,class\nred.png,1\ngreen.png,3\n")
    *single, summary = results(pictures[:2], model, truth=str(truth), truth_offset=-1)
    assert [result.data["correct"] for result in single] == [True, False]
    assert single[1].data["truth"] == {"class": 2, "label": "blue"}
    assert single[1].text.splitlines()[-1].endswith("<- right")
    assert summary.data["judged"] == 2
    assert (summary.data["top1"], summary.data["top5"]) == (1, 2)
    assert (summary.data["top1_accuracy"], summary.data["top5_accuracy"]) == (0.5, 1)
    assert summary.text == "top-1  1 of 2  50.0 %\ntop-5  2 of 2  100.0 %"


def test_what_the_truth_and_the_pictures_have_not_in_common(
    model: cnnkit.Model, pictures: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("green.png,1\nyellow.png,0\n")
    with caplog.at_level("INFO", logger="cnnkit"):
        *single, summary = results(pictures, model, truth=str(truth))
    assert ["correct" in result.data for result in single] == [False, True, False]
    assert summary.data["judged"] == summary.data["top1"] == 1
    assert summary.data["pictures_without_truth"] == [pictures[0], pictures[2]]
    assert summary.data["rows_without_picture"] == ["yellow.png"]
    assert f"2 of the pictures are not in {truth}" in caplog.text
    assert f"1 of the rows of {truth} met no picture: yellow.png." in caplog.text


def test_a_row_may_name_folders(model: cnnkit.Model, tmp_path: Path) -> None:
    paths = []
    for folder, colour in (("a", COLOURS["red"]), ("b", COLOURS["blue"])):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "same.png"
        cnnkit.Image.load(np.full((8, 8, 3), colour, np.uint8)).save(path)
        paths.append(str(path))
    truth = tmp_path / "truth.csv"
    truth.write_text("a/same.png,0\nb/same.png,2\n")
    assert results(paths, model, truth=str(truth))[-1].data["top1"] == 2


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("a.png,0\nb.png\n", "line 2: expected a file and a class index, found 'b.png'"),
        ("a.png,0\nb.png,cat\n", "line 2: expected a file and a class index"),
        ("file,class\na.png,3\n", "line 2: class 3 with --truth-offset 0 is 3, .* classes 0 to 2"),
        ("a.png,0\na.png,1\n", "line 2: 'a.png' has a second, different class"),
        (None, "cannot be read as a CSV table: No such file"),
    ],
)
def test_a_truth_that_is_none(
    model: cnnkit.Model, pictures: list[str], tmp_path: Path, table: str | None, sentence: str
) -> None:
    truth = tmp_path / "truth.csv"
    if table is not None:
        truth.write_text(table)
    with pytest.raises(cnnkit.UsageError, match=sentence):
        results(pictures, model, truth=str(truth))


def test_a_hundred_photographs_as_a_plain_loop_has_them(data: Path) -> None:
    """Filter "bilinear" is Pillow's, so the loop below is the whole of what happens."""
    path, folder = data / "weights" / "mobilenet_v2_1.0_224.onnx", data / "images" / "imagenet_val"
    pictures = sorted(folder.glob("*.JPEG"))
    network = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = []
    for picture in pictures:
        pixels = pillow.open(picture).convert("RGB").resize((224, 224), pillow.Resampling.BILINEAR)
        x = np.asarray(pixels, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        expected.append(int(network.run(None, {"input": x})[0].argmax()))

    spec = cnnkit.ModelSpec(str(path), preprocess="tf", fit="squash", filter="bilinear")
    truth = folder / "labels.csv"
    outcomes = list(cnnkit.map("classify", pictures, model=spec, truth=str(truth), truth_offset=1))
    *single, summary = [outcome.unwrap() for outcome in outcomes]
    assert [result.data["classes"][0]["class"] for result in single] == expected
    assert summary.data["judged"] == 100
    assert summary.data["top1"] >= 73
    assert summary.data["top5"] >= 90
    assert not summary.data["pictures_without_truth"] and not summary.data["rows_without_picture"]
