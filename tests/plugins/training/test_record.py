"""Curves of several runs."""

from pathlib import Path

from cnnkit.plugins.training.course import Row
from cnnkit.plugins.training.record import names


def run(phase: str) -> list[Row]:
    return [Row(1, phase, *[0.5] * (len(Row._fields) - 2))]


def test_runs_of_one_phase_are_told_apart_by_their_folders() -> None:
    others = {Path("own/a.csv"): run("frozen"), Path("b.csv"): run("frozen"), Path("c/a.csv"): run("scratch")}
    assert names(run("fine-tuned"), others) == ["frozen in own", "frozen in b", "scratch", "fine-tuned"]
    assert names(run("scratch"), others) == ["frozen in own", "frozen in b", "scratch in c", "scratch"]
