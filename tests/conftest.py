"""Fixtures that every room of the tests shares."""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

WriteDistribution = Callable[..., Path]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and pictures; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CNNKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and pictures at {folder}; set CNNKIT_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def write_distribution() -> WriteDistribution:
    """Lays a distribution into a folder as pip would leave it there: modules, and a table of entry points."""

    def write(
        folder: Path,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] = {},
        version: str = "1.0",
    ) -> Path:
        information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        information.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (information / "METADATA").write_text(metadata)
        lines = []
        for group, entries in entry_points.items():
            lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
        (information / "entry_points.txt").write_text("\n".join(lines))
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        return folder

    return write


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports what makes the pictures of the docs, whose modules find each other in their folder."""
    folder = Path(__file__).parents[1] / "docs" / "recipes" / "pictures"
    own = {path.stem for path in folder.iterdir()}
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in own:
            del sys.modules[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """A test that compares with an oracle skips where the oracle is not installed: its fixtures ask, ..."""
    with _skipping(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """... or the test itself."""
    with _skipping(item):
        return (yield)


@contextmanager
def _skipping(item: pytest.Item) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if item.get_closest_marker("oracle") is None:
            raise
        pytest.skip(f"{error.name} is not installed")
