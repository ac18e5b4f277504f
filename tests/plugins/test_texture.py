"""Textures: the loss by its formula, sets of layers that grow, sizes of their own, and random filters."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pillow
from small_network import picture, small_network
from stopping import Stopping

import cnnkit
from cnnkit import Image, Model, Session, UsageError
from cnnkit.models.random_filters import random_filters
from cnnkit.plugins.synthesis.representations import TEXTURES
from cnnkit.plugins.texture import TextureOptions, easels, network, texture

Array = NDArray[Any]
PAINTING = picture(20, 24, seed=2).clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plot takes longer than these runs, and `test_record.py` looks at it."""
    monkeypatch.setattr("cnnkit.plugins.synthesis.series.plot_of", lambda records: b"")


@pytest.fixture(scope="module")
def small() -> Model:
    return small_network()


def run(model: Model, source: Any = PAINTING, **options: Any) -> cnnkit.Result:
    given = {"size": "24", "iterations": 4, "layers": ["one", "two"]} | options
    return cnnkit.run("texture", source, model=model, **given)


def table(result: cnnkit.Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.files["losses.csv"].decode())))


def gram(features: Array) -> Array:
    rows = features.reshape(features.shape[1], -1).astype(np.float64)
    return rows @ rows.T / rows.shape[1]


def test_the_loss_is_gatys_of_normalised_features(small: Model) -> None:
    """1000 times the mean over the layers of ¼ mean((G - A)²), of features with a mean of 1."""
    options = {"layers": ["one", "two"], "size": "20x24", "pooling": "max", "iterations": 1}
    tasks = easels(Image.load(PAINTING), small, TextureOptions(**options), Stopping())  # type: ignore[arg-type]
    row = table(cnnkit.run("texture", PAINTING, model=small, seed=3, growing=False, **options))[0]
    session = Session(small)
    painted = small.preprocessing.to_network(PAINTING)[None]
    a, g = (session.run(x, ["one", "two"]) for x in (painted, tasks["two"].start((20, 24))))
    for layer in ("one", "two"):
        scale = np.abs(a[layer]).mean(dtype=np.float64)
        difference = (gram(g[layer]) - gram(a[layer])) / scale**2
        expected = 1000 / 2 * np.square(difference).mean() / 4
        assert float(row[f"style {layer} weighted"]) == pytest.approx(expected, rel=1e-4)


def test_sets_of_layers_grow(small: Model) -> None:
    result = run(small)
    assert set(result.pictures) == {"", "one", "two"}
    found = result.data["textures"]
    assert [list(each["gram_error"]) for each in found.values()] == [["one"], ["one", "two"]]
    columns = {row["picture"]: row for row in table(result)}
    assert columns["one"]["style two raw"] == "" and columns["two"]["style one raw"] != ""
    assert "two: Gram matrices off by" in result.text


def test_one_set_alone_is_the_main_picture(small: Model) -> None:
    result = run(small, growing=False)
    assert list(result.pictures) == [""] and list(result.data["textures"]) == ["two"]
    assert list(result.data["textures"]["two"]["gram_error"]) == ["one", "two"]
    assert result.data["recipe"]["style_layers"] == ["one", "two"]


def test_the_gram_error_is_that_of_the_saved_texture(small: Model) -> None:
    """But for rounding and clipping."""
    faint = (PAINTING * 0.3 + 90).astype(np.uint8)
    result = run(small, faint, layers=["one"], iterations=150, size="20x24", pooling="max")
    session = Session(small)
    inputs = (small.preprocessing.to_network(pixels)[None] for pixels in (result.picture.pixels, faint))
    g, a = (gram(session.run(x, ["one"])["one"]) for x in inputs)
    error = ((g - a) ** 2).sum() / (a**2).sum()
    assert result.data["textures"]["one"]["gram_error"]["one"] < 1e-3
    assert error < 0.02


def test_a_texture_may_be_of_any_size(small: Model) -> None:
    result = run(small, size="30x44")
    assert result.pictures["one"].size == (30, 44)
    tasks = easels(Image.load(PAINTING), small, TextureOptions(layers=("one",), size="30x44"), Stopping())
    height, width = tasks["one"].style_size(Image.load(PAINTING), (30, 44))
    assert height / width == pytest.approx(20 / 24, rel=0.05)
    assert height * width == pytest.approx(30 * 44, rel=0.05)
    options = TextureOptions(layers=("one",), size="30x44", style_scale=2.0)
    larger = easels(Image.load(PAINTING), small, options, Stopping())
    assert larger["one"].style_size(Image.load(PAINTING), (30, 44)) == (2 * height, 2 * width)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_kinds_of_pictures(small: Model, mode: str) -> None:
    result = run(small, pillow.fromarray(PAINTING).convert(mode))
    assert result.pictures["two"].alpha is None


def test_what_cannot_be_is_one_sentence(small: Model) -> None:
    with pytest.raises(UsageError, match="Did you mean 'one'"):
        run(small, layers=["oen"])
    with pytest.raises(UsageError, match="Did you mean 'gatys'"):
        run(small, preset="gatis")


def test_an_interrupted_series_goes_on_to_the_same_end(small: Model) -> None:
    options = TextureOptions(layers=("one", "two"), size="long:24", iterations=4, optimizer="lbfgs-torch")
    painting, first = Image.load(PAINTING), Stopping(6)
    whole = texture(painting, small, options, Stopping())
    with pytest.raises(KeyboardInterrupt):
        texture(painting, small, options, first)
    rest = texture(painting, small, options, Stopping(None, first.kept))
    np.testing.assert_array_equal(rest.picture.pixels, whole.picture.pixels)
    assert rest.data == whole.data


# Random filters


def test_random_filters_need_no_layers_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path))
    options = {"preset": "ustyuzhaninov", "size": "16", "iterations": 8}
    assert network(TextureOptions(preset="ustyuzhaninov")) == "random-filters-32"
    assert network(TextureOptions()) == "default"
    result = cnnkit.run("texture", PAINTING, **options)
    rows = table(result)
    assert float(rows[-1]["total"]) < 0.5 * float(rows[0]["total"])
    assert result.manifest["model"]["name"] == "random-filters-32"
    assert json.loads(json.dumps(result.data["recipe"]))["style_layers"] == ["filters"]
    assert not list(tmp_path.rglob("*.onnx"))


def test_its_loss_is_ten_million_times_that_of_the_paper() -> None:
    """From noise of the deviation of its uniform one, within a grey level of grey."""
    model = random_filters(maps=2)
    options = TextureOptions(preset="ustyuzhaninov", size="20x24", iterations=1)
    (task,) = easels(Image.load(PAINTING), model, options, Stopping()).values()
    start = task.start((20, 24))
    assert start.std() == pytest.approx(3**-0.5, rel=0.05) and abs(start.mean()) < 0.1
    session = Session(model)
    painted = model.preprocessing.to_network(PAINTING)[None]
    g, a = (gram(session.run(x, ["filters"])["filters"]) for x in (start, painted))
    channels = len(a)
    expected = 1e7 * ((g - a) ** 2).sum() / (4 * channels**2)
    feeds = dict(task.feeds((20, 24)))
    training = task.context.training(task.eye, task.objective, ("input",), batch=1, size=(20, 24))
    assert training.gradient({**feeds, "input": start}).losses["total"] == pytest.approx(expected, rel=1e-4)
    assert TEXTURES["ustyuzhaninov"].style_weight == 1e7
