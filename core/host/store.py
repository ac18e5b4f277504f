"""The networks stored on this machine: `$CNNKIT_HOME/models/NAME.onnx`, each with its record `NAME.json`."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnkit.errors import CnnkitError, ModelError, OutputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from cnnkit.graphs.model import Model


def home() -> Path:
    """`$CNNKIT_HOME`, or the platform's cache folder."""
    import platformdirs

    return Path(os.environ.get("CNNKIT_HOME") or platformdirs.user_cache_dir("cnnkit", appauthor=False))


def store() -> Path:
    """The folder of stored networks."""
    return home() / "models"


def stored_networks() -> dict[str, Path]:
    """Every `NAME.onnx` in the store, by name, sorted."""
    return {path.stem: path for path in sorted(store().glob("*.onnx"))}


@dataclass(frozen=True)
class Record:
    """What is known of a stored network beside its file.

    `origin` is the address or the path of the file that it was made from, `checksum` that file's, and
    `published` says whether somebody publishes that checksum. `options` are those of the command that stored
    it. `sha256` is the checksum of the stored file, `stored` the time, and `cnnkit` the version that did it.
    """

    summary: str
    licence: str
    origin: str
    checksum: str
    published: bool
    options: Mapping[str, Any]
    sha256: str = ""
    stored: str = ""
    cnnkit: str = ""


def record_of(path: Path) -> Record | None:
    """The record of the stored file at `path`; None where there is none that can be read."""
    try:
        return Record(**json.loads(path.with_suffix(".json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def checked_name(name: str, taken: Sequence[str]) -> str:
    """A name for a stored network. Raises UsageError for one that cannot be, or that a plugin has."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.endswith(".onnx"):
        raise UsageError(
            f"a network's name is made of letters, digits, '.', '_' and '-', and no .onnx, not '{name}'."
        )
    if name in taken:
        raise UsageError(f"'{name}' is the name of a network that a plugin has; choose another.")
    return name


def keep(model: "Model", name: str, record: Record) -> Path:
    """Store a network under a name with its record: both or, when that fails, neither.

    What was stored under the name before stays until the new file is written. Returns the path of the .onnx.
    Raises OutputError.
    """
    from cnnkit.images.files import write_atomically

    path = store() / f"{name}.onnx"
    beside = path.with_suffix(".json")
    try:
        store().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"nothing can be stored in {store()}: {error.strerror}.") from None
    model.save(path)
    try:
        beside.unlink(missing_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = replace(record, sha256=sha256_of(path), stored=now, cnnkit=version("cnnkit"))
        write_atomically(beside, json.dumps(asdict(record), indent=1).encode())
    except BaseException:
        path.unlink()
        raise
    return path


def remove_network(name: str) -> Path:
    """Delete a stored network and its record; return the path it had. Raises ModelError or OutputError."""
    path = _stored(name)
    try:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror}.") from None
    return path


def verify_networks(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Whether each stored network, or those named, is what was stored and loads; a JSON-able dict for each.

    Raises ModelError for a name that is not stored.
    """
    found = []
    for name, path in {name: _stored(name) for name in names or stored_networks()}.items():
        problem = _problem(path)
        remark = "" if record_of(path) else "good, but no record says what was stored"
        found.append(
            {"name": name, "path": str(path), "good": not problem, "problem": problem, "remark": remark}
        )
    return found


def _stored(name: str) -> Path:
    stored = stored_networks()
    if name not in stored:
        known, hint = ", ".join(stored) or "none", did_you_mean(name, stored)
        raise ModelError(f"there is no stored network '{name}' in {store()}; there are: {known}.{hint}")
    return stored[name]


def _problem(path: Path) -> str:
    from cnnkit.graphs.model import Model

    record = record_of(path)
    if record and record.sha256 != sha256_of(path):
        return "its sha256 is not the one it was stored with; pull or import it again with --force"
    try:
        Model.load(path)
    except CnnkitError as error:
        return str(error)
    return ""


def sha256_of(path: Path) -> str:
    """Of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
