"""Imports run one way: host to runtime to graphs to images, and everybody else over the public names.

Read from the source, so imports inside functions and under TYPE_CHECKING count as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnkit

ROOT = Path(__file__).parents[2]
HOMES = {"core": "cnnkit", "plugins": "cnnkit.plugins", "models": "cnnkit.models", "cli": "cnnkit.cli"}
ROOMS = ("images", "graphs", "runtime", "host")
PUBLIC = frozenset(cnnkit.__all__)


def imports(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import; the name is empty for `import module` and import_module("module")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "find_spec"):
                yield str(node.args[0].value), ""


def whole(module: str, name: str) -> str:
    """`from cnnkit.graphs import model` is an import of cnnkit.graphs.model, or of a name in it."""
    return f"{module}.{name}" if name else module


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def complaints(folder: str, path: Path, source: str) -> list[str]:
    """The arrows of a file that point the wrong way."""
    inner = path.relative_to(folder).parts
    wrong = []
    for module, name in imports(source):
        target = whole(module, name)
        if is_in(target, "cnnkit.cli") and folder != "cli" and path.name != "__main__.py":
            wrong.append(f"{target}: only cli imports cli")
        if is_in(target, "onnxruntime") and not (folder == "core" and inner[0] == "runtime"):
            wrong.append(f"{target}: only core/runtime imports onnxruntime")
        if not is_in(target, "cnnkit"):
            continue
        if folder == "core" and inner[0] in ROOMS:
            above = [*ROOMS[ROOMS.index(inner[0]) + 1 :], "plugins", "models", "testing"]
            wrong += [
                f"{target}: {inner[0]} imports {room}" for room in above if is_in(target, f"cnnkit.{room}")
            ]
            if inner[0] != "host" and module == "cnnkit":
                wrong.append(f"{target}: a room imports rooms, not the public names")
        if folder == "core" and inner == ("errors.py",):
            wrong.append(f"{target}: errors imports nothing of cnnkit")
        if folder == "plugins" and not is_in(module, "cnnkit.plugins"):
            if module != "cnnkit" or (name and name not in PUBLIC):
                wrong.append(f"{target}: plugins import public names only")
        if folder == "models" and not is_in(module, "cnnkit.models"):
            allowed = {"cnnkit.errors", "cnnkit.graphs.builder", "cnnkit.graphs.model"}
            if module not in allowed and (module != "cnnkit" or (name and name not in PUBLIC)):
                wrong.append(f"{target}: models import errors, builder, model and public names")
    return wrong


FILES = [
    pytest.param(folder, path, id=str(path.relative_to(ROOT)))
    for folder in HOMES
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("folder, path", FILES)
def test_arrows(folder: str, path: Path) -> None:
    assert complaints(folder, path.relative_to(ROOT), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("core/images/x.py", "from cnnkit.graphs.model import Model"),
        ("core/images/x.py", "def f():\n    import cnnkit.runtime.session"),
        ("core/images/x.py", "from cnnkit import Model"),
        ("core/graphs/x.py", "from cnnkit.host import jobs"),
        ("core/graphs/x.py", "from cnnkit import runtime"),
        ("core/graphs/x.py", "import onnxruntime"),
        ("core/runtime/x.py", "if TYPE_CHECKING:\n    from cnnkit.host.host import Host"),
        ("core/host/x.py", "def f():\n    from onnxruntime import InferenceSession"),
        ("core/host/x.py", "import importlib\nimportlib.import_module('onnxruntime')"),
        ("core/host/x.py", "from cnnkit.cli import main"),
        ("core/host/x.py", "from cnnkit.plugins import classify"),
        ("core/errors.py", "from cnnkit.images.image import Image"),
        ("plugins/x.py", "from cnnkit.graphs.targets import Scores"),
        ("plugins/x.py", "import cnnkit.host"),
        ("plugins/x.py", "from cnnkit import errors"),
        ("plugins/x.py", "import onnxruntime.capi"),
        ("models/x.py", "from cnnkit.runtime.session import Session"),
        ("models/x.py", "from cnnkit import host"),
    ],
)
def test_the_test_can_fail(path: str, source: str) -> None:
    assert complaints(path.split("/")[0], Path(path), source)


@pytest.mark.parametrize(
    "path, source",
    [
        ("core/host/x.py", "from cnnkit.runtime.session import Session"),
        ("core/runtime/x.py", "import onnxruntime"),
        ("plugins/x.py", "import cnnkit\nfrom cnnkit import drawing\nfrom cnnkit.plugins.tiles import tile"),
        ("models/x.py", "from cnnkit.graphs.builder import Builder\nfrom cnnkit import Network, hookimpl"),
        ("core/__main__.py", "from cnnkit.cli.main import main"),
    ],
)
def test_and_succeed(path: str, source: str) -> None:
    assert complaints(path.split("/")[0], Path(path), source) == []
