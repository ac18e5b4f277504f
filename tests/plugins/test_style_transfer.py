"""Style transfer as a whole: what comes back, closed forms, every preset, and pictures of all kinds."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pillow
from stopping import Stopping

import cnnkit
from cnnkit import Image, Model, UsageError
from cnnkit.models.default import locate
from cnnkit.plugins.style_transfer import duration, network, style_transfer
from cnnkit.plugins.synthesis.options import StyleTransferOptions
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.record import Record

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(locate())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plot takes longer than these runs, and `test_record.py` looks at it."""
    monkeypatch.setattr(Record, "plot", lambda record: b"")


def scene(height: int = 40, width: int = 56, seed: int = 0) -> Pixels:
    """A smooth picture with an edge."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + seed) + phase) + np.cos(y / (7 + 2 * seed) - phase) for phase in (0, 1, 2)]
    picture = 128 + 50 * np.stack(waves, -1)
    picture[: height // 2, : width // 3] = (220, 60, 30)
    return picture.clip(0, 255).astype(np.uint8)


CONTENT, STYLE = scene(), scene(44, 48, seed=3)


def run(model: Model, content: Any = CONTENT, style: Any = STYLE, **options: Any) -> cnnkit.Result:
    given = {"size": "48", "iterations": 5, "pyramid": 0} | options
    styles = [] if style is None else style if isinstance(style, list) else [style]
    return cnnkit.run("style-transfer", content, model=model, style=styles, **given)


def table(result: cnnkit.Result) -> list[dict[str, float]]:
    rows = csv.DictReader(io.StringIO(result.files["losses.csv"].decode()))
    return [{name: float(value or "nan") for name, value in row.items()} for row in rows]


# What comes back


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_paints(model: Model, name: str) -> None:
    sizes = {"vgg16-noise": (40, 56), "keras-sgd": (34, 48), "keras-lbfgs": (34, 48)}
    result = run(model, preset=name, size="34x48" if name.startswith("keras") else "48", seed=1)
    assert result.picture.size == sizes.get(name, (34, 48))
    rows = table(result)
    assert rows[-1]["iteration"] == result.data["iterations"] and len(rows) >= 2
    assert all(np.isfinite(row["total"]) for row in rows)
    assert min(row["total"] for row in rows[1:]) < rows[0]["total"]
    assert result.data["recipe"]["source"] == PRESETS[name].source


def test_the_table_is_consistent(model: Model) -> None:
    result = run(model, preset="tensorflow-tutorial", iterations=4)
    parts = [name.removesuffix(" raw") for name in table(result)[0] if name.endswith(" raw")]
    assert parts[0] == "content block5_conv2" and parts[-1] == "variation" and len(parts) == 7
    weights = result.data["coefficients"]
    for row in table(result):
        assert row["total"] == pytest.approx(sum(row[f"{part} weighted"] for part in parts), rel=1e-5)
        for part in parts[:-1]:
            kind, layer = part.split(" ")
            assert row[f"{part} weighted"] == pytest.approx(
                row[f"{part} raw"] * weights[kind][layer], rel=1e-5
            )
        assert row["variation weighted"] == pytest.approx(
            row["variation raw"] * weights["variation"], rel=1e-5
        )


def test_the_first_row_is_the_loss_by_definition(model: Model) -> None:
    """From the network's own features of both pictures: ¼ mean((G/M - A/M)²) and mean((F - P)²)."""
    content, style = scene(40, 40), scene(40, 40, seed=3)
    options = {"preset": "gatys-code", "size": "40", "iterations": 1}
    from_content = table(run(model, content, style, **options))[0]
    from_style = table(run(model, content, style, start="style", **options))[0]
    styles = [f"block{block}_conv1" for block in range(1, 6)]
    session = cnnkit.Session(model)

    def features(pixels: Pixels) -> dict[str, Any]:
        return session.run(model.preprocessing.to_network(pixels)[None], [*styles, "block4_conv2"])

    def gram(values: NDArray[Any]) -> NDArray[np.float64]:
        rows = values.reshape(values.shape[1], -1).astype(np.float64)
        return rows @ rows.T / rows.shape[1]

    f, p = features(content), features(style)
    for layer in styles:
        expected = ((gram(f[layer]) - gram(p[layer])) ** 2).mean() / 4
        assert from_content[f"style {layer} raw"] == pytest.approx(expected, rel=1e-4)
    expected = ((f["block4_conv2"] - p["block4_conv2"]) ** 2).mean()
    assert from_style["content block4_conv2 raw"] == pytest.approx(expected, rel=1e-4)


# Closed forms


def test_without_style_the_content_stays_as_it_is(model: Model) -> None:
    result = run(model, preset="gatys-code", style_weight=0, size="40x56", iterations=6)
    np.testing.assert_array_equal(result.picture.pixels, CONTENT)
    assert result.data["losses"]["total"] == 0 and result.data["content_error"]["block4_conv2"] == 0


def test_a_picture_in_its_own_style_is_itself(model: Model) -> None:
    result = run(model, style=CONTENT, preset="gatys-code", size="40x56", iterations=6)
    assert np.abs(result.picture.pixels.astype(int) - CONTENT).max() <= 1
    assert max(result.data["gram_error"].values()) < 1e-6


def test_from_the_style_without_content_nothing_is_left_to_do(model: Model) -> None:
    options = {"preset": "gatys-code", "start": "style", "content_weight": 0, "iterations": 6}
    result = run(model, scene(40, 40), scene(40, 40, seed=3), size="40", **options)
    assert np.abs(result.picture.pixels.astype(int) - scene(40, 40, seed=3)).max() <= 1


def test_the_style_comes_nearer_and_the_content_goes_away(model: Model) -> None:
    few, many = (run(model, iterations=count).data for count in (1, 40))
    assert sum(many["gram_error"].values()) < 0.5 * sum(few["gram_error"].values())
    assert many["content_error"]["block4_conv2"] > few["content_error"]["block4_conv2"]


def test_more_content_weight_keeps_more_of_the_content(model: Model) -> None:
    errors = [
        run(model, preset="cnnkit", content_weight=weight, iterations=30).data["content_error"][
            "block4_conv2"
        ]
        for weight in (0.1, 10)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_offsets_shift_what_is_shown_and_nothing_else(model: Model) -> None:
    plain, shifted = (
        run(model, preset="keras-sgd", size="40x56", iterations=2, offsets=offsets)
        for offsets in ("0,0,0", "means:123.939,96.779,96.68")
    )
    expected = plain.picture.pixels + np.array([-27.0, -20, 20])
    inside = (expected > 0) & (expected < 255)
    assert inside.mean() > 0.8
    assert np.abs(shifted.picture.pixels - expected)[inside].max() <= 1
    assert plain.data["losses"] == shifted.data["losses"]


def test_a_share_of_one_is_that_style_alone(model: Model) -> None:
    other = scene(30, 30, seed=9)
    alone = run(model, preset="gatys-code").picture.pixels
    for styles in ("targets", "losses"):
        shared = run(model, style=[STYLE, other], style_weights="1,0", styles=styles, preset="gatys-code")
        assert np.abs(shared.picture.pixels.astype(int) - alone).max() <= 2
        equal = run(model, style=[STYLE, other], styles=styles, preset="gatys-code")
        assert np.abs(equal.picture.pixels.astype(int) - alone).max() > 4


def test_the_same_seed_gives_the_same_noise_and_another_another(model: Model) -> None:
    one, same, other = (
        run(model, preset="jcjohnson", start="noise", noise="uniform", iterations=2, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.picture.pixels, same.picture.pixels)
    assert one.data == same.data
    assert (one.picture.pixels != other.picture.pixels).mean() > 0.5


# Sizes


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ("long:48", (34, 48)),
        ("short:32", (32, 44)),
        ("40x40", (40, 40)),
        ("height:32", (32, 44)),
        ("48", (34, 48)),
    ],
)
def test_the_result_has_the_size_asked_for(model: Model, rule: str, size: tuple[int, int]) -> None:
    assert run(model, size=rule, iterations=1).picture.size == size


def test_a_pyramid_grows_by_the_root_of_two(model: Model) -> None:
    result = run(model, size="64", pyramid=32, iterations=2)
    assert [max(size) for size in result.data["sizes"]] == [32, 45, 64]
    assert [row["stage"] for row in table(result)] == [0] * 4 + [1] * 2 + [2] * 2


def test_the_result_comes_back_at_the_original_size(model: Model) -> None:
    assert run(model, original_size=True, iterations=1).picture.size == (40, 56)


# On the way


def test_snapshots_an_animation_and_feature_maps(model: Model) -> None:
    result = run(model, snapshots=2, animation="gif", features=True, iterations=5, preset="gatys-code")
    assert {"", "step0002", "step0004", "features-content", "features-style", "features-result"} <= {
        *result.pictures
    }
    animation = pillow.open(io.BytesIO(result.files["run.gif"]))
    assert animation.size == (48, 34) and animation.n_frames >= 4  # type: ignore[attr-defined]
    assert {"losses.csv", "losses.png"} <= result.files.keys()


def test_best_and_last_are_both_kept_where_they_differ(model: Model) -> None:
    """A rate that is far too high: the first picture stays the best."""
    result = run(model, preset="tensorflow-tutorial", content_weight=1e8, rate=0.5, iterations=12)
    assert "last" in result.pictures
    assert result.data["best"]["total"] < result.data["losses"]["total"]
    assert (result.pictures["last"].pixels != result.picture.pixels).any()


@pytest.mark.parametrize("name", ["cnnkit", "gatys-code", "keras-lbfgs"])
def test_an_interrupted_run_goes_on_to_the_same_end(model: Model, name: str) -> None:
    style = Image.load(STYLE)
    options = StyleTransferOptions(
        style=(style,), preset=name, size="long:64", pyramid=40, iterations=6, animation="gif"
    )
    content = Image.load(CONTENT)
    whole = style_transfer(content, model, options, Stopping())
    first = Stopping(8)
    with pytest.raises(KeyboardInterrupt):
        style_transfer(content, model, options, first)
    at_once, shown = first.shown
    assert at_once.pictures.keys() == shown.pictures.keys() and not at_once.files
    assert shown.data["iterations"] == 8 and shown.data["stopped"] == "it was interrupted"
    rest = style_transfer(content, model, options, Stopping(None, first.kept))
    np.testing.assert_array_equal(rest.picture.pixels, whole.picture.pixels)
    without_time = [
        [line.rsplit(",", 1)[0] for line in result.files["losses.csv"].decode().splitlines()]
        for result in (rest, whole)
    ]
    assert without_time[0] == without_time[1]
    assert rest.files["run.gif"] == whole.files["run.gif"]


@pytest.mark.parametrize("strip", [None, 2])
def test_a_run_whose_end_is_interrupted_shows_its_picture_and_is_kept(
    model: Model, monkeypatch: pytest.MonkeyPatch, strip: int | None
) -> None:
    """While it is measured how near the result comes; and once more while that is done for what is kept."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    styles = Image.load(STYLE), Image.load(CONTENT)
    options = StyleTransferOptions(style=styles, strip=strip, size="long:48", pyramid=0, iterations=2)
    content, first = Image.load(CONTENT), Stopping()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cnnkit.plugins.style_transfer.deviations", interrupted)
        style_transfer(content, model, options, first)
    (shown,) = first.shown
    rest, whole = Stopping(None, first.kept), Stopping()
    expected = style_transfer(content, model, options, whole)
    found = style_transfer(content, model, options, rest)
    assert rest.moves == whole.moves - 2
    assert found.text.splitlines()[1:] == expected.text.splitlines()[1:]
    np.testing.assert_array_equal(found.picture.pixels, expected.picture.pixels)
    name = "blend000" if strip else ""
    np.testing.assert_array_equal(
        shown.pictures[name].pixels, (whole.shown[0] if strip else expected).pictures[name].pixels
    )


# Before the start


def test_a_dry_run_paints_nothing_and_says_what_it_would_cost(model: Model) -> None:
    result = run(model, dry_run=True)
    assert not result.pictures and not result.files
    assert "48x34" in result.text and "GMAC" in result.text and "GB of" in result.text
    assert result.data["macs"] > 0 and result.data["seconds"] > 0


def test_explaining_needs_no_style(model: Model) -> None:
    text = run(model, style=None, preset="jcjohnson", explain="gatys-code").text
    assert "block1_conv1" in text and "gatys-code" in text and "ratio" in text
    alone = cnnkit.run("style-transfer", CONTENT, model=model, explain="cnnkit").text
    assert "  ratio" not in alone and alone.startswith(PRESETS["cnnkit"].source)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": None}, "--style must be given"),
        ({"style_weights": "1,2"}, "2 numbers for 1 styles"),
        ({"content_layers": "block4_conv9"}, "Did you mean 'block4_conv"),
        ({"style_layers": "blok1_conv1:2"}, "Did you mean 'block1_conv"),
        ({"preset": "pytorch"}, "pytorch-tutorial"),
        ({"start": "file"}, "--start-picture"),
        ({"style_layers": "predictions"}, "lies over no picture"),
        ({"set": "memroy=3"}, "Did you mean 'memory'"),
    ],
)
def test_what_cannot_be_is_one_sentence(model: Model, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        run(model, **options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_network_is_the_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path))

    def of(**options: Any) -> str | None:
        return network(StyleTransferOptions(**options))

    assert of(preset="vgg16-noise") == "vgg16-notop"
    assert of(preset="pytorch-tutorial") == "vgg19-torchvision"
    assert of() == "default"
    assert of(preset="vgg16-noise", explain="cnnkit") is None
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vgg19-notop.onnx").write_bytes(locate().read_bytes())
    assert of() == "vgg19-notop"


# The pictures that people have


def encoded(picture: pillow.Image, format: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **settings)
    return buffer.getvalue()


def exif_rotated() -> bytes:
    exif = pillow.Exif()
    exif[0x0112] = 6
    return encoded(pillow.fromarray(CONTENT), "JPEG", exif=exif)


PICTURES = {
    "grey": encoded(pillow.fromarray(CONTENT).convert("L"), "PNG"),
    "cmyk": encoded(pillow.fromarray(CONTENT).convert("CMYK"), "JPEG"),
    "16-bit": encoded(pillow.fromarray(CONTENT[..., 0].astype(np.uint16) * 257), "PNG"),
    "palette": encoded(pillow.fromarray(CONTENT).convert("P"), "GIF"),
    "one pixel": encoded(pillow.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_kinds_of_pictures(model: Model, kind: str) -> None:
    result = run(
        model, PICTURES[kind], PICTURES["grey" if kind == "cmyk" else "cmyk"], size="40", iterations=2
    )
    assert max(result.picture.size) == 40


def test_a_picture_turned_by_exif_is_upright(model: Model) -> None:
    result = run(model, exif_rotated(), style_weight=0, iterations=1, size="56", preset="gatys-code")
    assert result.picture.size == (56, 40)


def test_transparency_is_put_back(model: Model) -> None:
    alpha = np.tile(np.linspace(0, 255, 56).astype(np.uint8), (40, 1))
    picture = encoded(pillow.fromarray(np.dstack([CONTENT, alpha])), "PNG")
    result = run(model, picture, size="40x56", iterations=2)
    assert result.picture.alpha is not None
    np.testing.assert_array_equal(result.picture.alpha, alpha)


def test_a_picture_as_thin_as_a_thread_stays_one(model: Model) -> None:
    result = run(model, np.tile(CONTENT[:10, :50], (1, 40, 1)), size="256", iterations=2)
    assert result.picture.size == (1, 256)
    assert np.isfinite(result.data["losses"]["total"])


def test_a_huge_picture_is_only_reduced(model: Model) -> None:
    result = run(model, np.tile(CONTENT, (60, 60, 1)), iterations=1)
    assert result.picture.size == (34, 48)


def test_the_data_are_json_and_the_recipe_can_be_read_back(model: Model) -> None:
    data = json.loads(json.dumps(run(model, iterations=1).data))
    assert Recipe(**data["recipe"]).network == "vgg19-notop"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0 s"), (8, "8 s"), (130, "2 min 10 s"), (11100, "3 h 5 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told
