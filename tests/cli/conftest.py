"""The command line as a person meets it: real processes, and plugins that strangers wrote."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

THIRD_PARTY = Path(__file__).parents[1] / "third_party"

PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
"""Settings by which help texts and messages look the same everywhere."""


@dataclass
class Ended:
    """How a process ended."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()


def environment(sites: tuple[Path, ...], **more: str) -> dict[str, str]:
    """Of a process that finds the packages in the folders `sites` and not the settings of the caller."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNNKIT_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, sites)), **PLAIN, **more}


@pytest.fixture
def cnnkit(tmp_path: Path) -> Callable[..., Ended]:
    """Runs `cnnkit ARGUMENTS` in the test's folder; asserts that a traceback is only ever shown on demand."""

    def run(*arguments: Any, sites: tuple[Path, ...] = (), stdin: bytes = b"", **variables: str) -> Ended:
        command = [sys.executable, "-m", "cnnkit", *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(sites, **variables),
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        err = done.stderr.decode()
        assert "--debug" in arguments or "Traceback" not in err, err
        return Ended(done.returncode, done.stdout, err)

    return run


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds and installs packages with pip into a fresh folder, without network or virtual environment."""

    def install(*packages: Path) -> Path:
        folder, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
        sources = [str(shutil.copytree(package, folder / package.name)) for package in packages]
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
        command = [sys.executable, "-m", "pip", "install", *options, *sources]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(()))
        assert done.returncode == 0, done.stdout + done.stderr
        return site

    return install


@pytest.fixture(scope="session")
def acme(install: Callable[..., Path]) -> Path:
    """The folder that the package of tests/third_party is installed in."""
    return install(THIRD_PARTY / "cnnkit-acme")


TROUBLE = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from cnnkit import Operation, Result, hookimpl

@dataclass(frozen=True)
class Options:
    '''Do as its name says.'''

def slow(picture, model, options, context):
    context.say("begun")
    time.sleep(60)

def fragile(picture, model, options, context):
    if picture.name.startswith("raises"):
        raise ValueError("it broke\\nin two")
    if picture.name.startswith("exits"):
        sys.exit(3)
    if picture.name.startswith("rubbish"):
        return 7
    if picture.name.startswith("unjson"):
        return Result(data={"x": {1, 2}})
    if picture.name.startswith("unsaved"):
        return Result({"a/b": picture})
    return Result({"": picture}, data={"name": picture.name}, text=picture.name)

def stream(pictures, model, options, context):
    count = 0
    for picture in pictures:
        count += 1
        yield fragile(picture, model, options, context)
    yield Result(data={"count": count}, text=f"{count} pictures")

def noise(picture, model, options, context):
    values = context.random.integers(0, 256, (4, 4, 3), np.uint8)
    return Result({"": picture.with_pixels(values)}, {"values": values}, {"first": int(values[0, 0, 0])})

def count(folder, model, options, context):
    files = sorted(path.name for path in Path(folder).iterdir())
    return Result(data={"files": files}, text=f"{len(files)} files")

def hello(nothing, model, options, context):
    return Result(data={"hello": True}, text="hello")

@hookimpl
def cnnkit_operations():
    plain = [Operation(run.__name__, run, Options, needs="nothing") for run in (slow, fragile, noise)]
    return [
        *plain,
        Operation("stream", stream, Options, takes="pictures", needs="nothing"),
        Operation("count", count, Options, takes="folder", needs="nothing"),
        Operation("hello", hello, Options, takes="nothing", needs="nothing"),
    ]
"""


@pytest.fixture(scope="session")
def trouble(tmp_path_factory: pytest.TempPathFactory, write_distribution: Callable[..., Path]) -> Path:
    """A distribution with operations that dawdle, break, or take other things than a picture."""
    names = ("slow", "fragile", "noise", "stream", "count", "hello")
    entries = {"cnnkit.operations": dict.fromkeys(names, "trouble")}
    return write_distribution(
        tmp_path_factory.mktemp("trouble"), "cnnkit-trouble", entries, {"trouble": TROUBLE}
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """photo.png: two columns of black beside two of white; the mean step between neighbours is 255/4."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, 2:] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
