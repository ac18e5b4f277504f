"""Sweeps: alternatives, cells and their names, what is shared, what is done again, and sheets."""

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from PIL import Image as pillow
from said import Said
from small_network import picture, small_network

import cnnkit
from cnnkit import Context, Host, Image, ImageError, Job, ModelError, Operation, Option, Result, UsageError
from cnnkit.host import keeping
from cnnkit.host.context import Settings
from cnnkit.host.grid import alternatives, axes_of, cells_of, in_order, word_for
from cnnkit.host.keeping import KEPT_OPEN, Kept
from cnnkit.host.options import fields_of
from cnnkit.host.result import jsonable
from cnnkit.host.tabulating import flattened
from cnnkit.images.files import write_atomically
from cnnkit.plugins.synthesis.record import Record


@dataclass(frozen=True)
class PaintOptions:
    """Fill a picture with one colour, in steps."""

    red: Annotated[int, Option("of the colour", min=0, max=255)] = 0
    green: Annotated[int, Option("of the colour", min=0, max=255)] = 0
    word: Annotated[str, Option("anything")] = ""
    several: Annotated[tuple[str, ...], Option("anything")] = ()
    under: Annotated[Image | None, Option("another picture")] = None
    steps: Annotated[bool, Option("show them")] = False


class Painter:
    """Counts what is painted, and is interrupted before a certain stroke."""

    def __init__(self) -> None:
        self.painted: list[tuple[int, int]] = []
        self.strokes: list[tuple[int, int, int]] = []
        self.stops_at: tuple[int, int, int] | None = None

    def __call__(self, source: Image, model: None, options: PaintOptions, context: Context) -> Result:
        if options.red == 13:
            raise UsageError("thirteen is not painted.")
        state = context.restore()
        for stroke in range(int(state["stroke"]) if state else 0, 3):
            if (options.red, options.green, stroke) == self.stops_at:
                raise KeyboardInterrupt
            self.strokes.append((options.red, options.green, stroke))
            if options.steps:
                context.emit(Result({f"step{stroke:04d}": flat(stroke, 0)}))
            context.save({"stroke": np.array(stroke + 1)})
        self.painted.append((options.red, options.green))
        data = {"losses": {"a": options.red, "total": options.red + options.green}, "name": source.name}
        if options.word:
            data["word"] = options.word.upper()
        return Result({"": flat(options.red, options.green)}, data=data)


def flat(red: int, green: int) -> Image:
    return Image(np.full((20, 20, 3), (red, green, 0), np.uint8))


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def host(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(entries=[])
    operation = Operation("paint", painter, PaintOptions, needs="nothing")
    monkeypatch.setattr(host, "operation", lambda name: operation)
    return host


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(pillow.open(io.BytesIO(path.read_bytes())))


def flats_in(sheet: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """(red, green) of the tiles without blue, row by row."""
    codes, first = np.unique(sheet.astype(np.int32) @ (1 << 16, 1 << 8, 1), return_index=True)
    found = [int(code) for _, code in sorted(zip(first, codes, strict=True))]
    return [(code >> 16, code >> 8 & 255) for code in found if code and not code & 255]


# Alternatives


@pytest.mark.parametrize(
    "texts, name, values",
    [
        (["16,32, 48"], "word", ["16", "32", "48"]),
        (["a,b;c"], "word", ["a,b", "c"]),
        (["a,b;"], "word", ["a,b"]),
        (["a", "b,c"], "word", ["a", "b", "c"]),
        (["a,b"], "several", ["a", "b"]),
        (["a,b;c"], "several", [["a", "b"], ["c"]]),
        (["a,b;", "c"], "several", [["a", "b"], "c"]),
        ([False, True], "steps", [False, True]),
    ],
)
def test_grammar(texts: list[Any], name: str, values: list[Any]) -> None:
    fields = {field.name: field for field in fields_of(PaintOptions)}
    assert alternatives(texts, fields[name]) == values


def test_a_file_with_commas_in_its_name(here: Path) -> None:
    (here / "a,b.png").touch()
    (field,) = [field for field in fields_of(PaintOptions) if field.name == "several"]
    assert alternatives(["a,b.png;c,d"], field) == ["a,b.png", ["c", "d"]]


# Cells


def names(axes: Any, folder: Path = Path("x")) -> list[str]:
    return [cell.place.stem.name for cell in cells_of(axes, Job("paint"), folder)]


def axes(sources: list[Any] = ["photo.png"], **grid: Any) -> Any:  # noqa: B006
    return axes_of(Operation("paint", print, PaintOptions, needs="nothing"), sources, grid)


def test_names_tell_the_cells() -> None:
    assert names(axes(red=[1, 2], word=["a"], steps=[True, False])) == [
        "photo.red=1.steps=yes.paint",
        "photo.red=1.steps=no.paint",
        "photo.red=2.steps=yes.paint",
        "photo.red=2.steps=no.paint",
    ]
    assert names(axes([])) == ["paint"] and names(axes([], seed=[0, 1])) == ["seed=0.paint", "seed=1.paint"]
    assert word_for(2.5e-8) == "2.5e-8" and word_for(10.0) == "10" and word_for("a,b") == "a, b"


def test_names_are_safe_short_and_their_own() -> None:
    words = ["a/b:c*?", "a b c ", "A_B_C", "x" * 300, "x" * 299 + "y", "..", "ä<>|\"'"]
    found = names(axes(["one/p.png", "two/p.png"], word=words, several=["y" * 200, "z"]))
    assert len({name.casefold() for name in found}) == len(found) == 2 * 7 * 2
    for name in found:
        assert not set(name) & set('/\\:*?"<>|\n') and name.endswith(".paint")
        assert len(name) <= 130 and not name.startswith(".")


def test_what_may_change_the_graph_varies_slowest() -> None:
    made = axes(["p.png", "q.png"], red=[1, 2], word=["a", "b"])
    order = [cell.numbers for cell in in_order(cells_of(made, Job("paint"), Path("x")), made)]
    assert [each["word"] for each in order] == [0] * 4 + [1] * 4
    assert [each["source"] for each in order] == [0, 0, 1, 1] * 2
    assert [each["red"] for each in order] == [0, 1] * 4


# Done, done again, not done


def sweep(host: Host, **grid: Any) -> Result:
    return cnnkit.sweep("paint", "sample:shapes", grid, host=host)


def test_every_combination_once(host: Host, painter: Painter, here: Path) -> None:
    result = sweep(host, red=[100, 200], green=[50, 150, 250])
    wanted = [(red, green) for red in (100, 200) for green in (50, 150, 250)]
    assert painter.painted == wanted
    folder = here / "paint.sweep"
    for red, green in wanted:
        shown = pixels(folder / f"shapes.red={red}.green={green}.paint.png")
        assert (shown == (red, green, 0)).all()
    assert flats_in(pixels(folder / "sweep.png")) == wanted
    assert np.array_equal(pixels(folder / "sweep.png"), result.picture.pixels)
    records = result.data["cells"]
    assert records == json.loads((folder / "sweep.json").read_text())["data"]["cells"]
    assert [(each["red"], each["green"], each["data"]["losses"]["total"]) for each in records] == [
        (red, green, red + green) for red, green in wanted
    ]
    rows = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text())))
    assert [int(row["losses.total"]) for row in rows] == [red + green for red, green in wanted]
    assert "name" not in rows[0] and rows[0]["source"] == "shapes" and float(rows[0]["seconds"]) > 0
    assert result.text.splitlines()[0].split() == ["red", "green", "seconds", "losses.total"]

    painter.painted.clear()
    again = sweep(host, red=[100, 200], green=[50, 150, 250])
    assert painter.painted == [] and again.data == result.data
    more = sweep(host, red=[100, 200], green=[50, 75, 150, 250])
    assert painter.painted == [(100, 75), (200, 75)] and len(more.data["cells"]) == 8


def test_numbers_that_were_typed_are_numbers(host: Host, painter: Painter, here: Path) -> None:
    records = sweep(host, red=["007", "20"]).data["cells"]
    assert [each["red"] for each in records] == [7, 20] and painter.painted == [(7, 0), (20, 0)]
    assert records[0]["cell"] == "shapes.red=7.paint"


def test_what_a_result_calls_as_an_option_is_told_from_it(host: Host, here: Path) -> None:
    result = sweep(host, word=["a", "b"])
    rows = list(csv.DictReader(io.StringIO((here / "paint.sweep" / "sweep.csv").read_text())))
    assert [(row["word"], row["data.word"]) for row in rows] == [("a", "A"), ("b", "B")]
    assert result.text.splitlines()[0].split() == ["word", "seconds"]


def test_a_cell_can_be_run_again_from_its_manifest(host: Host, painter: Painter, here: Path) -> None:
    sweep(host, red=[100, 200])
    painter.painted.clear()
    cnnkit.rerun("paint.sweep/shapes.red=200.paint.json", host=host)
    assert painter.painted == [(200, 0)]
    with pytest.raises(UsageError, match="is of a sweep: rerun"):
        cnnkit.rerun("paint.sweep/sweep.json", host=host)


def test_other_options_are_another_sweep(host: Host, painter: Painter, here: Path) -> None:
    sweep(host, red=[100, 200])
    cnnkit.sweep("paint", "sample:shapes", {"red": [100, 200]}, green=7, host=host)
    assert painter.painted == [(100, 0), (200, 0), (100, 7), (200, 7)]
    assert (pixels(here / "paint.sweep" / "shapes.red=100.paint.png") == (100, 7, 0)).all()


def test_killed_between_the_manifest_and_the_picture_it_is_not_done(
    host: Host, painter: Painter, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older sweep's picture is never taken for the one that was about to be written."""
    sweep(host, red=[100], green=[0, 1])

    def write(path: Path, content: bytes) -> None:
        if path.name == "shapes.green=0.paint.png":
            raise KeyboardInterrupt
        write_atomically(path, content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cnnkit.host.paths.write_atomically", write)
        sweep(host, red=[200], green=[0, 1])
    painter.painted.clear()
    result = sweep(host, red=[200], green=[0, 1])
    assert painter.painted == [(200, 0), (200, 1)] and flats_in(result.picture.pixels) == painter.painted


def test_pictures_out_of_memory_are_never_taken_for_one_another(
    host: Host, painter: Painter, here: Path
) -> None:
    for _ in range(2):
        cnnkit.sweep("paint", flat(1, 2), {"red": [100]}, host=host)
    assert painter.painted == [(100, 0)] * 2
    for _ in range(2):
        cnnkit.sweep("paint", "sample:shapes", {"under": [flat(1, 2).pixels]}, host=host)
    assert painter.painted == [(100, 0)] * 2 + [(0, 0)] * 2


def test_an_interruption_keeps_what_there_is_and_goes_on(host: Host, painter: Painter, here: Path) -> None:
    painter.stops_at = (200, 150, 1)
    listener, grid = Said(), {"red": [100, 200], "green": [50, 150]}
    with pytest.raises(KeyboardInterrupt):
        cnnkit.sweep("paint", "sample:shapes", grid, steps=True, host=host, reporter=listener)
    assert listener.lines[-1] == "3 of 4 are done; the same command goes on from there"
    folder = here / "paint.sweep"
    assert flats_in(pixels(folder / "sweep.png")) == [(100, 50), (100, 150), (200, 50)]
    records = json.loads((folder / "sweep.json").read_text())["data"]["cells"]
    assert [each.get("error") for each in records] == [None, None, None, "not yet"]

    painter.strokes.clear()
    painter.stops_at = None
    listener.lines.clear()
    result = cnnkit.sweep("paint", "sample:shapes", grid, steps=True, host=host, reporter=listener)
    assert painter.strokes == [(200, 150, 1), (200, 150, 2)]
    assert listener.lines[0] == "3 of 4 are done already" and listener.lines[1].startswith("4 of 4: red 200,")
    assert flats_in(result.picture.pixels) == [(100, 50), (100, 150), (200, 50), (200, 150)]
    assert all(each["seconds"] >= 0 for each in result.data["cells"])


def test_a_failing_cell_is_told_and_the_others_go_on(host: Host, painter: Painter, here: Path) -> None:
    listener = Said()
    sources = ["sample:shapes", "missing.png"]
    result = cnnkit.sweep("paint", sources, {"red": [12, 13, 14]}, host=host, reporter=listener)
    assert painter.painted == [(12, 0), (14, 0)]
    records = {each["cell"]: each.get("error") for each in result.data["cells"]}
    assert records["shapes.red=13.paint"] == "thirteen is not painted."
    assert records["missing.red=12.paint"] == "there is no file 'missing.png'"
    assert [line.split()[-1] for line in result.text.splitlines()].count("failed") == 4
    assert "source shapes, red 13: thirteen is not painted." in listener.lines
    assert flats_in(result.picture.pixels) == [(12, 0), (14, 0)]


@pytest.mark.parametrize(
    "grid, error, said",
    [
        ({"rde": [1]}, UsageError, "there is no option 'rde' to sweep over paint. Did you mean 'red'?"),
        ({"red": [1, 256]}, UsageError, "--red takes a number, from 0 to 255, not 256"),
        ({"red": ["1", "one"]}, UsageError, "--red takes a whole number, not 'one'"),
        ({"red": []}, UsageError, "--red needs a list of one or more values"),
        ({"red": "1,2"}, UsageError, "--red needs a list of one or more values"),
        ({"seed": [0, -1]}, UsageError, "--seed takes a whole number, at least 0"),
        ({"model": ["a"]}, UsageError, "there is no option 'model' to sweep over paint"),
        ({"under": ["missing.png"]}, ImageError, "there is no file 'missing.png'"),
    ],
)
def test_wrong_grids_are_told_before_anything_is_computed(
    host: Host, painter: Painter, here: Path, grid: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        sweep(host, green=[1, 2], **grid)
    assert painter.painted == [] and list(here.iterdir()) == []


def test_wrong_sources_folders_and_networks(host: Host, here: Path) -> None:
    for sources, said in (([], "needs a picture"), (["-"], "standard input can be read only once")):
        with pytest.raises(UsageError, match=said):
            cnnkit.sweep("paint", sources, {}, host=host)
    with pytest.raises(
        UsageError, match=r"-o x.png is one file, and a sweep makes many; give a folder: -o x/"
    ):
        cnnkit.sweep("paint", "sample:shapes", {}, host=host, output="x.png")
    with pytest.raises(UsageError, match=r"-o - holds one picture, and a sweep makes many"):
        cnnkit.sweep("paint", "sample:shapes", {}, host=host, output="-")
    with pytest.raises(ModelError, match="there is no network 'typo'"):
        cnnkit.sweep("classify", "sample:shapes", {"model": ["default", "typo"]})
    (here / "paint.sweep").mkdir()
    (here / "paint.sweep" / "sweep.csv").write_text("mine")
    with pytest.raises(cnnkit.OutputError, match="is not what cnnkit wrote there"):
        sweep(host, red=[1])
    assert (here / "paint.sweep" / "sweep.csv").read_text() == "mine"


# Sheets


def test_three_axes_are_a_sheet_each_and_snapshots_a_film(host: Host, here: Path) -> None:
    result = cnnkit.sweep(
        "paint",
        ["sample:shapes", "sample:stripes"],
        {"red": [100, 200], "green": [50, 150], "steps": [True]},
        host=host,
    )
    assert set(result.pictures) == {"source=shapes", "source=stripes", "snapshots"}
    assert {path.name for path in (here / "paint.sweep").glob("sweep*.png")} == {
        "sweep.source=shapes.png",
        "sweep.source=stripes.png",
        "sweep.snapshots.png",
    }
    every = [(100, 50), (100, 150), (200, 50), (200, 150)]
    assert flats_in(result.pictures["source=stripes"].pixels) == every
    film = result.pictures["snapshots"].pixels
    assert flats_in(film)[:3] == [(1, 0), (2, 0), (100, 50)]  # the snapshot of stroke 0 is black


def test_one_long_axis_is_folded(host: Host, here: Path) -> None:
    sheet = sweep(host, red=[20 * number for number in range(1, 11)]).picture
    assert flats_in(sheet.pixels) == [(20 * number, 0) for number in range(1, 11)]
    assert 0.3 < sheet.height / sheet.width < 1.5


# Sessions


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a session of ONNX Runtime was started for each graph."""
    from cnnkit.runtime import device, session, training

    counted: Counter[str] = Counter()

    def start(model: Any, *more: Any) -> Any:
        counted[hashlib.sha256(model.SerializeToString()).hexdigest()] += 1
        return device.start(model, *more)

    for module in (session, training):
        monkeypatch.setattr(module, "start", start)
    return counted


@pytest.fixture
def small(here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A network and pictures as files, and options for quick runs."""
    monkeypatch.setattr(Record, "plot", lambda record: b"")
    small_network().save(here / "small.onnx")
    for number, size in enumerate([(32, 40), (36, 28), (30, 30)]):
        Image(picture(*size, number).astype(np.uint8)).save(here / f"p{number}.png")
    given = {"preset": "gatys-code", "style_layers": "one,two", "content_layers": "two", "size": "height:32"}
    return {
        **given,
        "iterations": 2,
        "optimizer": "adam",
        "model": "small.onnx",
        "settings": Settings(threads=1),
    }


STYLES = ["p0.png", "p1.png", "p2.png"]


def test_no_session_is_started_twice(small: dict[str, Any], started: Counter[str]) -> None:
    """Three by three: weights and styles are fed, so all have one graph to look, one to differentiate, one to
    move."""
    grid = {"style": STYLES, "content_weight": [0.1, 1.0, 10.0]}
    result = cnnkit.sweep("style-transfer", "p0.png", grid, host=Host(), **small)
    assert len(result.data["cells"]) == 9 and not any("error" in each for each in result.data["cells"])
    assert sorted(started.values()) == [1, 1, 1]


def test_nor_where_the_graph_varies_and_there_are_more_than_a_host_keeps(
    small: dict[str, Any], started: Counter[str]
) -> None:
    del small["content_layers"]
    small |= {"pyramid": 12, "optimizer": "lbfgs-torch"}
    grid = {"style": STYLES[:2], "content_layers": ["one", "two", "pool"]}
    result = cnnkit.sweep("style-transfer", "p0.png", grid, host=Host(), **small)
    assert not any("error" in each for each in result.data["cells"])
    assert len(started) > KEPT_OPEN and set(started.values()) == {1}


def test_occlusion_has_one_session(small: dict[str, Any], started: Counter[str]) -> None:
    grid = {"patch": [8, 10, 12, 14, 16], "input_size": ["16x16"]}
    result = cnnkit.sweep("occlusion", STYLES, grid, model="small.onnx", stride=8, host=Host())
    assert len(result.data["cells"]) == 15 and not any("error" in each for each in result.data["cells"])
    assert list(started.values()) == [1]


def test_outside_of_a_sweep_the_session_that_looks_is_dropped(small: dict[str, Any]) -> None:
    host = Host()
    cnnkit.run("style-transfer", "p0.png", style=["p1.png"], host=host, **small)
    assert len(host._sessions) == 0
    with host.sweeping():
        cnnkit.run("style-transfer", "p0.png", style=["p1.png"], host=host, **small)
        assert len(host._sessions) == 1


def test_a_cell_is_the_run_bit_for_bit(small: dict[str, Any], here: Path) -> None:
    grid = {"content_weight": [1.0, 10.0], "seed": [0, 1]}
    small |= {"style": ["p1.png"], "start": "noise"}
    cnnkit.sweep("style-transfer", "p0.png", grid, host=Host(), **small)
    alone = cnnkit.run("style-transfer", "p0.png", content_weight=10.0, seed=1, host=Host(), **small)
    place = here / "style-transfer.sweep" / "p0.content-weight=10.seed=1.style-transfer.json"
    cell = json.loads(place.read_text())
    assert np.array_equal(pixels(place.with_suffix(".png")), alone.picture.pixels)
    assert cell["data"] == jsonable(alone.data) and cell["job"] == alone.manifest["job"]


def test_sessions_stay_open_while_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1000, 900, 600, 499, 499, 499])
    monkeypatch.setattr("cnnkit.runtime.device.available_memory", lambda: next(free))
    kept: Kept[int] = Kept()
    with keeping.as_many_as_fit(kept):
        for number in range(KEPT_OPEN + 2):
            kept.get(number, lambda number=number: number)  # type: ignore[misc]
        assert len(kept) == KEPT_OPEN + 2
        kept.get("one more", lambda: 0)
        assert len(kept) == KEPT_OPEN
    assert len(kept) == KEPT_OPEN and kept.get("one more", lambda: 1) == 0


# All kinds of operations


def test_pictures_at_once_nothing_and_folders(
    small: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = cnnkit.sweep("classify", ["sample:shapes", "sample:portrait"], {"top": [1, 2]})
    assert [len(each["data"]["classes"]) for each in told.data["cells"]] == [1, 2, 1, 2]
    assert told.pictures == {} and not (here / "classify.sweep" / "sweep.png").exists()
    assert {"label", "score"} <= set(told.text.split())

    host = Host(entries=[])
    calls = []

    def count(folder: Path | None, model: None, options: PaintOptions, context: Context) -> Result:
        calls.append(options.red)
        return Result(data={"files": len(list(folder.iterdir())) if folder else 0, "red": options.red})

    for takes, sources in (("nothing", ()), ("folder", (str(here),))):
        operation = Operation("count", count, PaintOptions, takes=takes, needs="nothing")  # type: ignore[arg-type]
        monkeypatch.setattr(host, "operation", lambda name, operation=operation: operation)
        calls.clear()
        for _ in range(2):
            result = cnnkit.sweep("count", sources, {"red": [1, 2]}, host=host, output=here / takes)
        assert calls == [1, 2] and [each["data"]["red"] for each in result.data["cells"]] == [1, 2]


def test_flattened() -> None:
    data = {"gram_error": {"one": 0.5}, "targets": [{"label": "cat", "at": [1, 2]}], "none": None}
    assert dict(flattened(data)) == {
        "gram_error.one": 0.5,
        "targets.0.label": "cat",
        "targets.0.at.0": 1,
        "targets.0.at.1": 2,
        "none": None,
    }
