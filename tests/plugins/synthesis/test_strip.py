"""A strip: its ends are the runs with one style, and what is made is not made again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import picture, small_network
from stopping import Stopping

import cnnkit
from cnnkit import Host, Image, Model, Settings, UsageError
from cnnkit.host.context import LogReporter
from cnnkit.host.delivery import deliver
from cnnkit.host.operation import Job, ModelSpec
from cnnkit.plugins.style_transfer import style_transfer
from cnnkit.plugins.synthesis.options import StyleTransferOptions
from cnnkit.plugins.synthesis.record import Record
from cnnkit.plugins.synthesis.strip import shares_of_blends
from cnnkit.runtime.training import TrainingSession

Pixels = NDArray[np.uint8]


def pixels(height: int, width: int, seed: int) -> Pixels:
    return np.rint(picture(height, width, seed)).clip(0, 255).astype(np.uint8)


CONTENT, FIRST, SECOND, THIRD = pixels(32, 40, 0), pixels(28, 36, 1), pixels(40, 24, 2), pixels(20, 30, 3)
GIVEN = {
    "preset": "gatys-code",
    "style_layers": "one,two",
    "content_layers": "two",
    "size": "long:40",
    "iterations": 5,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "plot", lambda record: b"")


@pytest.fixture(scope="module")
def network() -> Model:
    return small_network()


def run(network: Model, *styles: Pixels, **options: Any) -> cnnkit.Result:
    return cnnkit.run("style-transfer", CONTENT, model=network, style=[*styles], **(GIVEN | options))


# Shares


def test_shares_go_evenly_from_style_to_style() -> None:
    assert shares_of_blends(2, 5) == {
        "blend000": (1, 0),
        "blend025": (0.75, 0.25),
        "blend050": (0.5, 0.5),
        "blend075": (0.25, 0.75),
        "blend100": (0, 1),
    }
    assert shares_of_blends(3, 5) == {
        "blend000": (1, 0, 0),
        "blend025": (0.5, 0.5, 0),
        "blend050": (0, 1, 0),
        "blend075": (0, 0.5, 0.5),
        "blend100": (0, 0, 1),
    }


@pytest.mark.parametrize("styles", [2, 3, 7])
def test_any_number_of_blends_has_names_of_its_own_and_whole_shares(styles: int) -> None:
    for count in (2, 3, 10, 101):
        shares = shares_of_blends(styles, count)
        assert len(shares) == count
        assert all(sum(each) == pytest.approx(1) for each in shares.values())
        first, *_, last = shares.values()
        assert first == (1,) + (0,) * (styles - 1) and last == first[::-1]


# The ends


WAYS = [
    {},
    {"styles": "losses"},
    {"start": "style", "optimizer": "adam"},
    {"set": "style_form=wasserstein", "styles": "losses"},
    {"colours": "luminance"},
]


@pytest.mark.parametrize("more", WAYS)
def test_the_ends_are_the_runs_with_one_style_bit_for_bit(network: Model, more: dict[str, Any]) -> None:
    strip = run(network, FIRST, SECOND, strip=3, **more)
    for name, style in (("blend000", FIRST), ("blend100", SECOND)):
        alone = run(network, style, **more)
        np.testing.assert_array_equal(strip.pictures[name].pixels, alone.picture.pixels)
        for figures in ("losses", "gram_error", "content_error", "best"):
            assert strip.data["blends"][name][figures] == alone.data[figures]
        without_time = [
            [line.rsplit(",", 1)[0] for line in content.decode().splitlines()]
            for content in (strip.files[f"{name}.losses.csv"], alone.files["losses.csv"])
        ]
        assert without_time[0] == without_time[1]


def test_each_style_keeps_its_mask(network: Model) -> None:
    first, second = (np.zeros(style.shape[:2], bool) for style in (FIRST, SECOND))
    first[:, :18] = second[20:] = True
    strip = run(network, FIRST, SECOND, strip=2, style_mask=[first, second])
    for name, style, mask in (("blend000", FIRST, first), ("blend100", SECOND, second)):
        alone = run(network, style, style_mask=[mask])
        np.testing.assert_array_equal(strip.pictures[name].pixels, alone.picture.pixels)
        assert (alone.picture.pixels != run(network, style).picture.pixels).any()


@pytest.mark.parametrize("styles", ["targets", "losses"])
def test_the_middle_is_the_run_with_equal_shares(network: Model, styles: str) -> None:
    strip = run(network, FIRST, SECOND, THIRD, strip=5, styles=styles)
    middle = run(network, FIRST, SECOND, styles=styles).picture.pixels
    difference = strip.pictures["blend025"].pixels.astype(int) - middle
    assert np.abs(difference).max() <= 1
    alone = run(network, SECOND).picture.pixels
    np.testing.assert_array_equal(strip.pictures["blend050"].pixels, alone)


def test_the_style_goes_over_from_one_to_the_other(network: Model) -> None:
    """The more of a style, the nearer its Gram matrices; measured on the pictures alone."""
    strip = run(network, FIRST, SECOND, strip=3, content_weight=0, iterations=60)

    def gram(shown: Pixels) -> NDArray[Any]:
        x = network.preprocessing.to_network(shown)[None]
        rows = cnnkit.Session(network).run(x, ["one"])["one"].reshape(6, -1)
        return np.asarray(rows @ rows.T / rows.shape[1])

    blends = [gram(strip.pictures[name].pixels) for name in ("blend000", "blend050", "blend100")]
    far = [float(np.square(found - gram(SECOND)).sum()) for found in blends]
    assert far[0] > 2 * far[1] > 4 * far[2]


# What comes back


def test_the_strip_shows_all_blends_under_their_shares(network: Model) -> None:
    result = run(network, FIRST, SECOND, strip=3, snapshots=2, animation="gif")
    names = ("blend000", "blend050", "blend100")
    assert {f"{name}.step0002" for name in names} <= result.pictures.keys()
    assert {f"{name}.{part}" for name in names for part in ("losses.csv", "run.gif")} <= result.files.keys()
    assert [name for name in result.pictures if name in names] == [*names]
    sheet = result.picture.pixels
    rows = {name: result.pictures[name].pixels[0].repeat(3, 0) for name in names}  # below 128 it is enlarged
    lefts = [sheet.tobytes().find(row.tobytes()) // 3 % sheet.shape[1] for row in rows.values()]
    assert 0 < lefts[0] < lefts[1] - 120 < lefts[2] - 240 < sheet.shape[1] - 120
    assert result.data["blends"]["blend050"]["shares"] == (0.5, 0.5)
    assert "50 : 50" in result.text and "blend100" in result.text


def test_all_blends_share_one_session(network: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    usual = TrainingSession.__init__

    def counted(session: TrainingSession, *arguments: Any, **settings: Any) -> None:
        made.append(settings["size"])
        usual(session, *arguments, **settings)

    monkeypatch.setattr(TrainingSession, "__init__", counted)
    host = Host()
    run(network, FIRST, SECOND, strip=3, host=host, preset="cnnkit", pyramid=8, iterations=1)
    assert len(made) == len(set(made)) == 5


def test_a_strip_inside_a_sweep_leaves_it_its_sessions(network: Model) -> None:
    host = Host()
    with host.sweeping():
        run(network, FIRST, SECOND, strip=2, host=host, preset="cnnkit", pyramid=8, iterations=1)
        assert len(host._trainings) == 5
    assert len(host._trainings) == 4


def test_a_transparent_content_gives_transparent_blends_and_a_strip_on_white(network: Model) -> None:
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (32, 1))
    content = Image(CONTENT, alpha, name="glass")
    result = cnnkit.run("style-transfer", content, model=network, style=[FIRST, SECOND], strip=2, **GIVEN)
    assert result.picture.alpha is None and result.picture.name == "glass"
    np.testing.assert_array_equal(result.pictures["blend100"].alpha, alpha)


# Interrupted


@pytest.mark.parametrize("styles", ["targets", "losses"])
@pytest.mark.parametrize("after", [3, 10, 17])
def test_an_interrupted_strip_goes_on_to_the_same_end(network: Model, styles: str, after: int) -> None:
    """In the first blend of seven moves, behind its end, and in the last."""
    options = StyleTransferOptions(
        style=(Image.load(FIRST), Image.load(SECOND)),
        strip=3,
        preset="gatys-code",
        optimizer="adam",
        rate=5.0,
        styles=styles,  # type: ignore[arg-type]
        style_layers=(("one", 1.0), ("two", 1.0)),
        content_layers=(("two", 1.0),),
        size="long:40",
        iterations=7,
    )
    content = Image.load(CONTENT)
    uncut, first = Stopping(), Stopping(after)
    whole = style_transfer(content, network, options, uncut)
    with pytest.raises(KeyboardInterrupt):
        style_transfer(content, network, options, first)
    done = after // 7
    blends = first.shown[-1].data["blends"]
    assert len(blends) == done + 1
    assert list(blends.values())[-1]["stopped"] == "it was interrupted"
    second = Stopping(None, first.kept)
    rest = style_transfer(content, network, options, second)
    assert second.moves == 21 - after
    np.testing.assert_array_equal(rest.picture.pixels, whole.picture.pixels)
    assert json.dumps(rest.data) == json.dumps(whole.data)
    assert rest.text == whole.text
    for name in list(shares_of_blends(2, 3))[done:]:
        found, expected = (
            next(part.pictures[name] for part in reversed(shown) if name in part.pictures)
            for shown in (second.shown, uncut.shown)
        )
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_all_files_are_there_when_an_interrupted_strip_is_done(network: Model, tmp_path: Path) -> None:
    network.save(tmp_path / "small.onnx")
    for name, shown in (("content", CONTENT), ("first", FIRST), ("second", SECOND)):
        Image(shown).save(tmp_path / f"{name}.png")
    styles = [str(tmp_path / "first.png"), str(tmp_path / "second.png")]
    job = Job(
        "style-transfer",
        (str(tmp_path / "content.png"),),
        ModelSpec(str(tmp_path / "small.onnx")),
        GIVEN | {"style": styles, "strip": 3, "snapshots": 2},
    )

    class Interrupting(LogReporter):
        def __init__(self, after: int | None) -> None:
            self.left, self.moves = after, 0

        def progress(self, items: Any, total: Any, label: Any) -> Any:
            for item in items:
                yield item
                self.moves += 1
                if self.moves == self.left:
                    raise KeyboardInterrupt

    def delivered(folder: str, after: int | None = None, resume: bool = False) -> dict[str, bytes]:
        given = {"output": f"{tmp_path / folder}/", "resume": resume}
        list(deliver(job, Host(), Settings(threads=1), Interrupting(after), **given))
        files = sorted((tmp_path / folder).iterdir())
        return {path.name: path.read_bytes() for path in files if path.suffix != ".json"}

    whole = delivered("whole")
    assert {f"content.style-transfer.{name}.png" for name in shares_of_blends(2, 3)} <= whole.keys()
    with pytest.raises(KeyboardInterrupt):
        delivered("cut", after=7)
    assert "content.style-transfer.checkpoint.npz" in {path.name for path in (tmp_path / "cut").iterdir()}
    rest = delivered("cut", resume=True)
    assert rest.keys() == whole.keys()
    for name, content in whole.items():
        if name.endswith(".png") and "losses" not in name:
            same = [Image.load(found).pixels for found in (rest[name], content)]
            np.testing.assert_array_equal(*same)
    told = json.loads((tmp_path / "cut" / "content.style-transfer.json").read_text())
    assert told["outputs"].keys() == whole.keys() and "unfinished" not in told


# What cannot be


def test_what_cannot_be_is_one_sentence(network: Model) -> None:
    with pytest.raises(UsageError, match="give --style twice"):
        run(network, FIRST, strip=3)
    with pytest.raises(UsageError, match="leave out --style-weights"):
        run(network, FIRST, SECOND, strip=3, style_weights="1,2")
    with pytest.raises(UsageError, match="from 2 to 101"):
        run(network, FIRST, SECOND, strip=1)


def test_a_dry_run_counts_all_blends(network: Model) -> None:
    text = run(network, FIRST, SECOND, strip=3, dry_run=True).text
    assert "for each of 3" in text
