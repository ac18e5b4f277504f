"""The laboratory reports in docs/reports/: every command of every page means something.

That it runs, too, is seen where the pages' pictures are made: test_pictures.py. What each page begins with is
run by .ci/run, where nothing else is installed.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cnnkit import Image
from cnnkit.cli.main import app
from cnnkit.cli.operations import OperationGroup
from cnnkit.cli.sweep import SweepGroup
from cnnkit.host.grid import alternatives, axes_of, cells_of
from cnnkit.host.host import default_host
from cnnkit.host.operation import Job
from cnnkit.host.options import build_options, fields_of

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "reports").glob("*.md"))
CLASSES = {"animals": ("crab", "dalmatian", "elephant"), "others": ("pizza", "sunflower")}
"""The folders of class folders that pages name."""
EACH = 6
"""Pictures of a class."""

page_by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands(page: Path, recipes: Any) -> list[str]:
    reading = recipes("reading")
    return [command for block in reading.blocks(page) for command in reading.commands(block)]


# Whether they mean anything


def parsed(words: list[str], folder: Path) -> dict[str, Any]:
    """What a command line gives its command, by name.

    Raises what the command line or the operation says to a command or an option that there is not, and to a
    value that does not fit.
    """
    command: Any = typer.main.get_command(app)
    context = command.context_class(command)
    operation: Any = None
    while hasattr(command, "resolve_command"):
        group, parent = command, context
        name, command, words = group.resolve_command(parent, words)
        context = command.context_class(command, parent=parent)
        operation = default_host().operation(name) if isinstance(group, OperationGroup) else None
    given: dict[str, Any] = command.make_context(name, words, parent=parent).params
    if operation:
        fields = {field.name: field for field in fields_of(operation.options)}
        options = {name: given[name] for name in fields if given[name] not in (None, [], ())}
        jobs = [Job(operation.name, options=options)]
        if isinstance(group, SweepGroup):
            grid = {name: alternatives(values, fields[name]) for name, values in options.items()}
            axes = axes_of(operation, given.get("sources") or [], grid)
            jobs = [cell.job for cell in cells_of(axes, Job(operation.name), folder)]
        for job in jobs:
            build_options(operation.options, job.options, Image.load)
    return given


@page_by_page
def test_every_command_means_something(
    page: Path, recipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = commands(page, recipes)
    lay_files(lines, tmp_path)
    assert any(line.startswith("cnnkit run ") for line in lines)
    known = set(default_host().names("cnnkit.models"))
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "cnnkit", line
        try:
            given = parsed(words, tmp_path)
        except Exception as error:
            pytest.fail(f"{line}: {error}")
        named = given.get("model") or given.get("network") or []
        for name in [named] if isinstance(named, str) else named:
            assert name.endswith(".onnx") or set(name.split(",")) <= known, line


def lay_files(lines: list[str], folder: Path) -> None:
    """The pictures that command lines name, small, and folders of class folders."""
    for word in re.findall(r"[\w./-]+\.jpg", " ".join(lines)):
        (folder / word).parent.mkdir(parents=True, exist_ok=True)
        sample(len(word)).save(folder / word)
    for name, labels in CLASSES.items():
        for number in range(EACH * len(labels)):
            label = folder / name / labels[number % len(labels)]
            label.mkdir(parents=True, exist_ok=True)
            sample(number % len(labels)).resized(40 + number, 50).save(label / f"{number}.jpg")


def sample(number: int) -> Image:
    name = ("portrait", "shapes", "stripes")[number % 3]
    return Image.load(f"sample:{name}").resized(60, 72)
