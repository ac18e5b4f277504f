"""Snapshots on disk at once, checkpoints, and going on after an interruption."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

import cnnkit
from cnnkit import Context, Host, Image, Job, Model, Operation, Option, OutputError, Result, UsageError
from cnnkit.host.context import LogReporter, Settings
from cnnkit.host.delivery import deliver
from cnnkit.host.jobs import Outcome


@dataclass(frozen=True)
class CountOptions:
    """Count to ten, showing every third number."""

    start: Annotated[int, Option("first number")] = 0
    stop_at: Annotated[int, Option("where Ctrl-C comes")] = 99


def count(picture: Image, model: None, options: CountOptions, context: Context) -> Result:
    state = context.restore()
    number = int(state["number"]) if state else options.start
    counted = []
    while number < 10:
        if number == interrupted["at"]:
            raise KeyboardInterrupt
        counted.append(number)
        if number % 3 == 0:
            context.emit(Result(pictures={f"step{number}": picture}))
        number += 1
        context.save({"number": np.array(number)})
    return Result(pictures={"": picture}, data={"counted": counted})


interrupted = {"at": -1}
OPERATION = Operation("count", count, CountOptions, needs="nothing")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(Image.load(np.zeros((4, 4, 3), np.uint8)).encode("png"))
    return path


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Host:
    interrupted["at"] = -1
    host = Host(entries=[])
    monkeypatch.setattr(host, "operation", lambda name: OPERATION)
    return host


def delivered(host: Host, picture: Path, resume: bool = False, **options: int) -> Outcome:
    job = Job("count", (str(picture),), None, options)
    (outcome,) = deliver(job, host, Settings(), LogReporter(), resume=resume)
    return outcome


def outputs(picture: Path) -> set[str]:
    return {path.name.removeprefix("photo.count") for path in picture.parent.glob("photo.count*")}


STEPS = {".step0.png", ".step3.png", ".step6.png", ".step9.png"}


def test_snapshots_are_part_of_the_result(counting: Host, picture: Path) -> None:
    outcome = delivered(counting, picture)
    assert outputs(picture) == {".png", ".json", *STEPS}
    assert {path.name.removeprefix("photo.count") for path in outcome.paths} == outputs(picture)
    told = json.loads((picture.parent / "photo.count.json").read_text())
    assert len(told["outputs"]) == 5 and "unfinished" not in told


def test_in_memory_they_are_pictures_of_the_result(counting: Host, picture: Path) -> None:
    result = cnnkit.run(OPERATION, str(picture), host=counting)
    assert set(result.pictures) == {"", "step0", "step3", "step6", "step9"}


def test_an_interrupted_run_goes_on(counting: Host, picture: Path) -> None:
    interrupted["at"] = 5
    with pytest.raises(KeyboardInterrupt):
        delivered(counting, picture)
    assert outputs(picture) == {".json", ".step0.png", ".step3.png", ".checkpoint.npz"}
    assert json.loads((picture.parent / "photo.count.json").read_text())["unfinished"] is True
    interrupted["at"] = -1
    outcome = delivered(counting, picture, resume=True)
    assert outcome.unwrap().data["counted"] == [5, 6, 7, 8, 9]
    assert outputs(picture) == {".png", ".json", *STEPS}


def test_what_was_shown_before_an_interruption_stays(counting: Host, picture: Path) -> None:
    interrupted["at"] = 10 - 1  # no snapshot comes behind it but the one at 9
    with pytest.raises(KeyboardInterrupt):
        delivered(counting, picture)
    interrupted["at"] = -1
    checkpoint = picture.parent / "photo.count.checkpoint.npz"
    with np.load(checkpoint) as saved:
        state = dict(saved)
    np.savez(checkpoint, **(state | {"number": np.array(10)}))  # nothing left to show
    outcome = delivered(counting, picture, resume=True)
    assert outputs(picture) == {".png", ".json", ".step0.png", ".step3.png", ".step6.png"}
    assert len(outcome.unwrap().data["counted"]) == 0 and len(outcome.paths) == 5


def test_without_resume_it_starts_anew(counting: Host, picture: Path) -> None:
    interrupted["at"] = 5
    with pytest.raises(KeyboardInterrupt):
        delivered(counting, picture)
    interrupted["at"] = -1
    assert len(delivered(counting, picture).unwrap().data["counted"]) == 10
    assert outputs(picture) == {".png", ".json", *STEPS}


def test_what_is_finished_is_left_out(counting: Host, picture: Path) -> None:
    delivered(counting, picture)
    assert delivered(counting, picture, resume=True).skipped
    assert len(delivered(counting, picture, resume=True, start=1).unwrap().data["counted"]) == 9


def test_a_checkpoint_of_another_run_is_refused(counting: Host, picture: Path) -> None:
    interrupted["at"] = 5
    with pytest.raises(KeyboardInterrupt):
        delivered(counting, picture)
    interrupted["at"] = -1
    with pytest.raises(UsageError, match=r"is of another run: start differ"):
        delivered(counting, picture, resume=True, start=2)
    (picture.parent / "photo.count.checkpoint.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(UsageError, match="is damaged; delete it"):
        delivered(counting, picture, resume=True)


def test_an_operation_chooses_its_network(tiny_model: Model, tmp_path: Path) -> None:
    path = tiny_model.save(tmp_path / "own.onnx")

    def name(picture: Image, model: Model, options: CountOptions, context: Context) -> Result:
        return Result(data={"model": model.name})

    operation = Operation("name", name, CountOptions, network=lambda options: str(path))
    pixels = np.zeros((4, 4, 3), np.uint8)
    result = cnnkit.run(operation, pixels)
    assert result.data == {"model": "tiny"}
    assert result.manifest["job"]["model"]["name"] == str(path)
    assert cnnkit.run(operation, pixels, model="default").data == {"model": "default"}


def test_what_takes_no_picture_has_a_desk_too(
    counting: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alone(source: None, model: None, options: CountOptions, context: Context) -> Result:
        return count(Image(np.zeros((4, 4, 3), np.uint8)), model, options, context)

    operation = Operation("count", alone, CountOptions, takes="nothing", needs="nothing")
    monkeypatch.setattr(counting, "operation", lambda name: operation)

    def counted(resume: bool) -> Outcome:
        job = Job("count", (), None, {})
        output = f"{tmp_path}/"
        (outcome,) = deliver(job, counting, Settings(), LogReporter(), output=output, resume=resume)
        return outcome

    interrupted["at"] = 4
    with pytest.raises(KeyboardInterrupt):
        counted(resume=False)
    found = {path.name for path in tmp_path.iterdir()}
    assert {"cnnkit.count.step0.png", "cnnkit.count.step3.png", "cnnkit.count.checkpoint.npz"} <= found
    interrupted["at"] = -1
    outcome = counted(resume=True)
    assert outcome.unwrap().data["counted"] == [4, 5, 6, 7, 8, 9]
    assert {path.name for path in outcome.paths} == {path.name for path in tmp_path.iterdir()}
    assert len(outcome.paths) == 2 + len(STEPS)
    assert counted(resume=True).skipped
    (tmp_path / "cnnkit.count.png").write_bytes(b"a stranger's")
    interrupted["at"] = 0  # it does not come to that
    assert isinstance(counted(resume=False).error, OutputError)
