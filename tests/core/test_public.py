"""The public names, the tables that list them, and the packages that hold them."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cnnkit

ROOT = Path(__file__).parents[2]
SOURCE = ast.parse((ROOT / "core" / "__init__.py").read_text("utf-8"))


def test_every_public_name_resolves() -> None:
    for name in cnnkit.__all__:
        assert getattr(cnnkit, name) is not None
    assert {*cnnkit.__all__, "__version__"} == set(dir(cnnkit))
    names: dict[str, object] = {}
    exec("from cnnkit import *", names)
    assert set(cnnkit.__all__) <= names.keys()
    with pytest.raises(AttributeError, match="module 'cnnkit' has no attribute 'Imgae'"):
        _ = cnnkit.Imgae  # type: ignore[attr-defined]
    assert (
        cnnkit.__version__
        == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    )


def test_what_type_checkers_see_is_what_loads() -> None:
    (block,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname  # what makes it a re-export
    }
    assert len(seen) == sum(len(node.names) for node in block.body if isinstance(node, ast.ImportFrom))
    loaded = {name: f"cnnkit.{room}" for name, room in cnnkit._HOMES.items()}
    modules = {name: f"cnnkit.{wing}" for name, wing in cnnkit._MODULES.items()}
    assert seen == {**loaded, **modules}


def test_names_load_alone_and_late() -> None:
    """Importing the package loads none of its rooms; each name can be the first."""
    script = "import sys, cnnkit; print([name for name in sys.modules if name.startswith('cnnkit.')])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
    rooms = sorted(set(cnnkit._HOMES.values()))
    script = "import sys, cnnkit\nfor name in sys.argv[1:]: getattr(cnnkit, name)"
    for room in ("host.jobs", "runtime.session", "graphs.targets"):
        assert room in rooms
        name = next(name for name, home in cnnkit._HOMES.items() if home == room)
        assert subprocess.run([sys.executable, "-c", script, name]).returncode == 0


def test_every_folder_of_code_is_packaged() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    homes = {"core": "cnnkit", "plugins": "cnnkit.plugins", "models": "cnnkit.models", "cli": "cnnkit.cli"}
    assert tools["package-dir"] == {package: folder for folder, package in homes.items()}
    found = {}
    for folder, package in homes.items():
        for file in (ROOT / folder).rglob("*.py"):
            inner = file.parent.relative_to(ROOT / folder).parts
            found[".".join([package, *inner])] = file.parent
    assert set(tools["packages"]) == found.keys()
    assert [package for package, folder in found.items() if not (folder / "__init__.py").is_file()] == []


def test_every_entry_point_exists() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    host = cnnkit.Host(strict=True, disabled=[])
    for group in ("cnnkit.operations", "cnnkit.models"):
        own = [plugin for plugin in host.plugins if (plugin.group, plugin.distribution) == (group, "cnnkit")]
        assert {plugin.name for plugin in own} == set(tables[group])
        for plugin in own:
            assert host.load(plugin).name == plugin.name
