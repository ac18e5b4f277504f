"""Run, map, deliver, rerun: order, failures, seeds, streams, manifests."""

import base64
import io
import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from PIL import Image as Pillow
from said import Said

import cnnkit
from cnnkit import (
    Context,
    Host,
    Image,
    ImageError,
    Job,
    Model,
    ModelError,
    ModelSpec,
    Operation,
    Option,
    Result,
    UsageError,
)
from cnnkit.host.context import LogReporter, Settings, bytes_of
from cnnkit.host.delivery import deliver
from cnnkit.host.operation import size_of


@dataclass(frozen=True)
class Options:
    """Nothing, or a picture."""

    style: Annotated[Image | None, Option("a picture")] = None


def noise(picture: Image, model: None, options: Options, context: Context) -> Result:
    return Result(arrays={"values": context.random.random(4)}, data={"name": picture.name})


def names(pictures: Iterator[Image], model: None, options: Options, context: Context) -> Iterator[Result]:
    """Two by two, as a batching operation would."""
    waiting: list[str] = []
    count = 0
    for picture in pictures:
        waiting.append(picture.name)
        count += 1
        if len(waiting) == 2:
            yield from (Result(data={"name": name}) for name in waiting)
            waiting.clear()
    yield from (Result(data={"name": name}) for name in waiting)
    yield Result(data={"count": count})


NOISE = Operation("noise", noise, Options, needs="nothing")
NAMES = Operation("names", names, Options, takes="pictures", needs="nothing")
SHAPES, STRIPES, GRADIENT, MISSING = "sample:shapes", "sample:stripes", "sample:gradient", "missing.png"


def test_sources_of_every_kind(tmp_path: Path) -> None:
    pixels = np.full((3, 5, 3), 200, np.uint8)
    pillow = Pillow.fromarray(pixels)
    file = io.BytesIO()
    pillow.save(file, "PNG")
    pillow.save(tmp_path / "x.png")
    sources = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        file.getvalue(),
        pillow,
        pixels,
        Image.load(pixels),
    ]
    outcomes = list(cnnkit.map(NOISE, sources))
    assert [outcome.unwrap().data["name"] for outcome in outcomes] == ["x", "x", *["picture"] * 4]
    assert [outcome.source is source for outcome, source in zip(outcomes, sources, strict=True)] == [True] * 6


def test_seeds_do_not_depend_on_neighbours() -> None:
    together = [
        outcome.unwrap()
        for outcome in cnnkit.map(NOISE, [SHAPES, MISSING, STRIPES], seed=5)
        if outcome.result
    ]
    alone = cnnkit.run(NOISE, STRIPES, seed=5)
    assert (together[1].arrays["values"] == alone.arrays["values"]).all()
    assert (cnnkit.run(NOISE, STRIPES, seed=6).arrays["values"] != alone.arrays["values"]).any()


@pytest.mark.parametrize(
    "sources",
    [
        [SHAPES],
        [MISSING],
        [SHAPES, MISSING, STRIPES, GRADIENT],
        [MISSING, MISSING, SHAPES, STRIPES, MISSING, GRADIENT, MISSING],
        [SHAPES, STRIPES, MISSING, MISSING],
    ],
)
def test_a_stream_keeps_its_order(sources: list[str]) -> None:
    """Each outcome stands in the place of its source, whatever failed; then the summary, without a source."""
    *outcomes, summary = cnnkit.map(NAMES, sources)
    assert [outcome.source for outcome in outcomes] == sources
    for outcome in outcomes:
        if outcome.source == MISSING:
            assert isinstance(outcome.error, ImageError) and outcome.result is None
            with pytest.raises(ImageError):
                outcome.unwrap()
        else:
            assert outcome.unwrap().data["name"] == outcome.source.removeprefix("sample:")
            assert outcome.manifest["job"]["sources"] == [outcome.source]
    assert summary.source is None and summary.unwrap().data == {
        "count": len(sources) - sources.count(MISSING)
    }
    assert summary.manifest["job"]["sources"] == [
        source if source.startswith("sample:") else str(Path(source).absolute()) for source in sources
    ]


def test_a_stream_is_lazy() -> None:
    """Outcomes come while pictures are still to be read."""

    def one_by_one(pictures: Iterator[Image], *rest: Any) -> Iterator[Result]:
        for picture in pictures:
            seen.append(picture.name)
            yield Result()

    seen: list[str] = []
    outcomes = cnnkit.map(
        Operation("x", one_by_one, Options, takes="pictures", needs="nothing"), [SHAPES, STRIPES]
    )
    next(outcomes)
    assert seen == ["shapes"]


def test_a_stream_that_gives_too_little() -> None:
    def first_only(pictures: Iterator[Image], *rest: Any) -> Iterator[Result]:
        next(pictures)
        yield Result()

    operation = Operation("x", first_only, Options, takes="pictures", needs="nothing")
    first, *others = cnnkit.map(operation, [SHAPES, STRIPES, MISSING])
    assert first.error is None and [other.source for other in others] == [STRIPES, MISSING]
    assert all("it gave no result" in str(other.error) for other in others)
    with pytest.raises(ImageError):
        cnnkit.run(operation, MISSING)


def test_what_stops_everything(tiny_model: Model) -> None:
    with pytest.raises(UsageError, match=r"there is no option 'patsch'\. Did you mean 'patch'"):
        cnnkit.run("occlusion", SHAPES, model=tiny_model, patsch=3)
    with pytest.raises(UsageError, match="noise needs a picture; none was given"):
        cnnkit.run(NOISE)
    with pytest.raises(ModelError, match="there is no network 'nope'"):
        list(cnnkit.map("classify", [SHAPES], model="nope"))
    with pytest.raises(UsageError, match="there is no operation 'nope'"):
        cnnkit.run("nope", SHAPES)


def test_an_operation_may_break() -> None:
    def breaks(picture: Image, *rest: Any) -> Result:
        if picture.name == "shapes":
            raise SystemExit(3)
        return Result()

    bad, good = cnnkit.map(Operation("x", breaks, Options, needs="nothing"), [SHAPES, STRIPES])
    assert str(bad.error) == "the operation x failed on sample:shapes: SystemExit: 3; --debug shows where."
    assert isinstance(bad.error.__cause__ if bad.error else None, SystemExit) and good.error is None


def test_context_runs_other_operations(tiny_model: Model) -> None:
    """On the same network, seed and sessions; another network where one is given."""

    def outer(picture: Image, model: Model, options: Options, context: Context) -> Result:
        own = context.run("classify", picture)
        assert context.session(model) is context.session(model)
        other = context.run("classify", picture, model=Model.of(model.graph, labels=["a", "b", "c"]), top=1)
        return Result(
            data={"own": own.data["classes"][0]["label"], "other": other.data["classes"][0]["label"]}
        )

    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 2] = 255
    host = Host()
    result = cnnkit.run(Operation("outer", outer, Options), blue, model=tiny_model, host=host)
    assert result.data == {"own": "blue", "other": "c"}
    assert len(host._sessions) == 2


def test_jobs_travel() -> None:
    """Through JSON and pickle: the same question, and so the same answer."""
    job = Job(
        "occlusion",
        ("sample:shapes",),
        ModelSpec("default", size=(64, 96)),
        {"patch": "8", "tags": ("a",)},
        4,
    )
    assert pickle.loads(pickle.dumps(job)) == job
    text = json.dumps(job.to_json())
    again = Job.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert again.model == job.model and again.options == {"patch": "8", "tags": ["a"]}
    assert Job.from_json(Job("x").to_json()) == Job("x")


def test_sizes_in_words() -> None:
    assert (size_of("224"), size_of("480x640")) == ((224, 224), (480, 640))
    assert [bytes_of(text) for text in ("2000", "800MB", "1.5 GiB", "2k")] == [
        2000,
        800_000_000,
        3 << 29,
        2000,
    ]
    for wrong in ("", "x", "0", "1x2x3", "-3", "3x"):
        with pytest.raises(UsageError):
            size_of(wrong)
    for wrong in ("", "GB", "-3", "3 parsecs"):
        with pytest.raises(UsageError):
            bytes_of(wrong)


def test_talk_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    transparent = np.full((2, 2, 4), 100, np.uint8)
    with caplog.at_level(logging.INFO, "cnnkit"):
        cnnkit.run(NOISE, transparent)
    assert any(record.message.startswith("picture: ") for record in caplog.records)


def test_the_default_network_is_mentioned_once(tmp_path: Path, tiny_model: Model) -> None:
    """Where nobody asked for it, and then only."""
    host = cnnkit.Host()
    unnamed = Job("classify", (SHAPES, STRIPES), options={"top": 1})
    said = {}
    for case, job in {
        "unnamed": unnamed,
        "spec without a name": replace(unnamed, model=ModelSpec(fit="crop")),
        "named": replace(unnamed, model=ModelSpec("default")),
    }.items():
        reporter = Said()
        list(deliver(job, host, Settings(), reporter, output=f"{tmp_path / case}/"))
        said[case] = reporter.lines
    (line,) = said["unnamed"]
    assert line.startswith("the network is 'default', ")
    assert "`cnnkit models pull mobilenet_v2`" in line and line.endswith("--model mobilenet_v2")
    assert said["spec without a name"] == [line]
    assert said["named"] == []
    given, painted = Said(), Said()
    cnnkit.run("classify", SHAPES, model=tiny_model, reporter=given)
    cnnkit.run("style-transfer", SHAPES, style=[Image.load(STRIPES)], dry_run=True, reporter=painted)
    assert given.lines == []
    assert [text for text in painted.lines if "pull vgg19-notop" in text]


def test_an_explanation_needs_no_network() -> None:
    said = Said()
    result = cnnkit.run("style-transfer", SHAPES, explain="gatys-paper", reporter=said)
    assert (result.manifest["model"], said.lines) == (None, [])


def test_notebooks(tiny_model: Model) -> None:
    """The main picture as PNG and the text beside it; JSON and text alone without pictures."""
    picture = Image.load(np.full((2, 3, 3), 7, np.uint8))
    bundle = Result({"grid": picture.resized(9, 9), "": picture}, text="hello")._repr_mimebundle_()
    assert bundle["text/plain"] == "hello"
    png = bundle["image/png"]
    shown = Pillow.open(io.BytesIO(png if isinstance(png, bytes) else base64.b64decode(png)))
    assert shown.size == (3, 2)
    assert Result(data={"x": 1})._repr_mimebundle_() == {"text/plain": "{'x': 1}"}
    result = cnnkit.run("occlusion", SHAPES, model=tiny_model, patch=8, stride=8)
    assert result.picture is result.pictures[""] and result._repr_mimebundle_()["image/png"]


def test_saving_by_hand(tmp_path: Path) -> None:
    """What `docs/embedding.md` promises: outcomes save themselves where they are told."""
    from cnnkit.host.paths import destination

    (outcome,) = cnnkit.map(NOISE, [SHAPES], seed=2)
    paths = outcome.save(destination("mine", "noise", f"{tmp_path}/"))
    assert [path.name for path in paths] == ["mine.noise.npz", "mine.noise.json"]
    told = json.loads(paths[1].read_text())
    assert told["plugin"] == "the calling program" and told["data"] == {"name": "shapes"}
    assert (np.load(paths[0])["values"] == outcome.unwrap().arrays["values"]).all()
    assert outcome.to_json()["outputs"] == [str(path) for path in paths]


def test_numbers_that_json_lacks() -> None:
    def odd(picture: Image, *rest: Any) -> Result:
        numbers = {"nan": float("nan"), "inf": np.float32("inf"), "int": np.int64(3), "list": np.arange(2)}
        return Result(data=numbers)

    (outcome,) = cnnkit.map(Operation("odd", odd, Options, needs="nothing"), [SHAPES])
    told = outcome.to_json()
    assert {key: told[key] for key in ("nan", "inf", "int", "list")} == {
        "nan": None,
        "inf": None,
        "int": 3,
        "list": [0, 1],
    }


def test_rerun_from_python(tmp_path: Path, tiny_model: Model) -> None:
    """The settings of the manifest are used again; sources and options from memory are refused."""
    path = tiny_model.save(tmp_path / "tiny.onnx")
    job = Job("occlusion", (SHAPES,), ModelSpec(str(path)), {"patch": 8, "stride": 4})
    (outcome,) = deliver(job, Host(), Settings("cpu", 1, None, 3), LogReporter(), output=str(tmp_path))
    before = {saved: saved.read_bytes() for saved in outcome.paths}
    again = cnnkit.rerun(tmp_path / "shapes.occlusion.json", host=Host())
    assert again.paths == outcome.paths and {saved: saved.read_bytes() for saved in again.paths} == before
    assert again.manifest["settings"]["batch"] == 3

    from cnnkit.host.paths import destination

    for source, model in ((np.zeros((4, 4, 3), np.uint8), str(path)), (SHAPES, tiny_model)):
        (outcome,) = cnnkit.map("classify", [source], model=model)
        paths = outcome.save(destination("memory", "x", f"{tmp_path}/"), force=True)
        with pytest.raises(UsageError, match="out of memory"):
            cnnkit.rerun(paths[-1])
    with pytest.raises(UsageError, match="is no manifest of cnnkit"):
        cnnkit.rerun(tmp_path / "missing.json")


def test_the_summary_and_each_picture_rerun_apart(tmp_path: Path, tiny_model: Model) -> None:
    path = tiny_model.save(tmp_path / "tiny.onnx")
    table = tmp_path / "truth.csv"
    table.write_text("red.png,0\n")
    Pillow.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    job = Job("classify", (str(tmp_path / "red.png"),), ModelSpec(str(path)), {"truth": str(table)})
    one, summary = deliver(job, Host(), Settings(), LogReporter(), output=f"{tmp_path}/")
    for outcome in (one, summary):
        before = outcome.paths[-1].read_bytes()
        assert cnnkit.rerun(outcome.paths[-1], host=Host()).paths == outcome.paths
        assert outcome.paths[-1].read_bytes() == before
