"""`cnnkit plugins new`: a small plugin package that passes its own tests at once."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cnnkit.errors import OutputError, UsageError
from cnnkit.images.files import write_atomically

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "plugin.py": "cnnkit_{module}.py",
    "test_plugin.py": "tests/test_{module}.py",
}
"""The template's files in `core/host/template/`, and the path of each in the new package."""


@dataclass(frozen=True)
class Written:
    """The folder of the new package and its files."""

    folder: Path
    files: list[Path]


def write_plugin(name: str, folder: str | None = None) -> Written:
    """Write the package for an operation called `name` into `folder` (default: `cnnkit-NAME`).

    Raises UsageError for a name that cannot be typed after `cnnkit run`, OutputError for a folder in use.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"an operation's name is lower-case words joined by hyphens, such as soft-edges, not '{name}'."
        )
    root = Path(folder or f"cnnkit-{name}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root} exists and is not empty; choose another place with --folder.")
    words = {
        "name": name,
        "module": name.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in name.split("-")),
    }
    written = []
    for template, target in FILES.items():
        text = files("cnnkit.host").joinpath("template", template + ".txt").read_text("utf-8")
        for word, value in words.items():
            text, target = text.replace(f"@{word}@", value), target.replace(f"{{{word}}}", value)
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
        written.append(path)
    return Written(root, written)
