"""Fetching a published file: from a mirror or its address, checked, whole or not at all.

The file of https://HOST/PATH lies in `$CNNKIT_HOME/downloads/HOST/PATH`; beside it lie `PATH.lock` and, where
nobody publishes a checksum, `PATH.checksum` with that of the first download.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cnnkit.errors import ModelError, OutputError, UsageError
from cnnkit.host.store import home
from cnnkit.host.transfer import Downloader

if TYPE_CHECKING:
    from cnnkit.host.context import Reporter
    from cnnkit.host.hookspecs import Source


@dataclass(frozen=True)
class Fetched:
    """A file that was checked: where it lies, where it is from, and its checksum, which somebody published or
    which is only that of the first download."""

    path: Path
    origin: str
    checksum: str
    published: bool

    def __str__(self) -> str:
        return f"{self.origin} ({self.checksum}{'' if self.published else ', which nobody publishes'})"


@contextmanager
def alone(path: Path, reporter: "Reporter") -> Iterator[None]:
    """While no other process is in here for the same path."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.say(f"another process is at work on {path.name}; waiting until it is done")
            lock.acquire()
    except OSError as error:
        raise _unwritable(error, path.parent) from None
    try:
        yield
    finally:
        lock.release()


def fetch(source: "Source", reporter: "Reporter", instead: str) -> Fetched:
    """The published file, in the folder of downloads.

    It comes from the mirrors of `CNNKIT_MIRROR` or from its address, unless it lies there already. `instead`
    is the option that takes a file which the user brings. Raises ModelError and OutputError.
    """
    target = place(home() / "downloads", source.address)
    with alone(target, reporter):
        known = known_checksum(source)
        _retrieve(source, known, target, reporter, instead)
        checksum = known or _record(source, target, reporter)
    return Fetched(target, source.address, checksum, bool(source.checksum))


def _retrieve(source: "Source", known: str, target: Path, reporter: "Reporter", instead: str) -> None:
    """Have the file at `target`, with the checksum where one is known, from the first place that has it."""
    import pooch

    pooch.get_logger().setLevel("ERROR")
    refusals: list[ModelError] = []
    for address in _addresses(source.address):
        downloader = Downloader(target, reporter)
        try:
            pooch.retrieve(str(address), known or None, target.name, target.parent, downloader=downloader)
            return
        except ValueError:  # pooch's word for a wrong checksum
            target.unlink(missing_ok=True)
            refusals.append(_mismatch(address, downloader.received, source, known, target))
        except ModelError as error:
            refusals.append(error)
        except OSError as error:
            raise _unwritable(error, target) from None
    raise _given_up(refusals, source, instead)


def _record(source: "Source", target: Path, reporter: "Reporter") -> str:
    """Keep the checksum of a first download, and return it."""
    import pooch

    found = f"sha256:{pooch.file_hash(str(target))}"
    recorded = _recorded(target)
    recorded.write_text(found + "\n")
    reporter.say(
        f"nobody publishes a checksum of {source.address}; the one of what came, {found}, is now in "
        f"{recorded}, and later downloads are compared with it"
    )
    return found


def bring(file: Path, source: "Source | None") -> Fetched:
    """A file that the user brings in place of the published one, checked when its checksum is known.

    Raises UsageError for no file, and ModelError for another one.
    """
    import pooch

    if not file.is_file():
        raise UsageError(f"there is no file {file} to take the weights from.")
    known = known_checksum(source) if source else ""
    if source is None or not known:
        return Fetched(file, file.name, f"sha256:{pooch.file_hash(str(file))}", False)
    algorithm, _, expected = known.partition(":")
    found = pooch.file_hash(str(file), algorithm)
    if found != expected:
        raise ModelError(
            f"{file} is not {source.address}: that has the checksum {known}, and this {algorithm}:{found}; "
            "`--weights FILE` uses a file of other weights."
        )
    return Fetched(file, source.address, known, bool(source.checksum))


def known_checksum(source: "Source") -> str:
    """The published checksum, else that of the first download on this machine, else an empty text."""
    if source.checksum:
        return source.checksum
    recorded = _recorded(place(home() / "downloads", source.address))
    return recorded.read_text().strip() if recorded.is_file() else ""


def place(folder: Path, address: str) -> Path:
    """Where the file of an address lies in a folder of downloads, as `wget -x` puts it there."""
    parts = urlsplit(address)
    return folder / parts.netloc / parts.path.lstrip("/")


def name_of(source: "Source") -> str:
    """The name of the file, and its size where that is known."""
    size = f" ({source.size / 1e6:.1f} MB)" if source.size else ""
    return Path(urlsplit(source.address).path).name + size


def _recorded(target: Path) -> Path:
    return target.with_name(f"{target.name}.checksum")


def _addresses(address: str) -> list[str | Path]:
    """Where to look for the file, in order; a folder's file is a path."""
    parts = urlsplit(address)
    found: list[str | Path] = []
    for base in os.environ.get("CNNKIT_MIRROR", "").split(","):
        base = base.strip()
        if base.startswith(("http://", "https://")):
            found.append(f"{base.rstrip('/')}/{parts.netloc}{parts.path}")
        elif base:
            found.append(place(Path(base), address))
    found.append(address)
    return found


def _given_up(refusals: list[ModelError], source: "Source", instead: str) -> ModelError:
    told = " ".join(str(refusal) for refusal in refusals)
    return ModelError(
        f"{told} Without this address: bring {name_of(source)} and say {instead} FILE, or put it in a folder "
        f"as {place(Path(), source.address)} and name that folder in CNNKIT_MIRROR."
    )


def _mismatch(address: str | Path, received: int, source: "Source", known: str, target: Path) -> ModelError:
    if source.checksum:
        why = f"it has not the checksum {known} that is published; try again, or take it from elsewhere"
    else:
        why = f"at the first download it had {known}; if the change is right, remove {_recorded(target)}"
    return ModelError(f"what came from {address} ({received} bytes) is another file and was removed: {why}.")


def _unwritable(error: OSError, path: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            f"the disk is full, so {path} is not complete; make room and pull again, which goes on from what "
            "is there, or set CNNKIT_HOME to a folder on another disk."
        )
    return OutputError(f"{path} cannot be written: {error.strerror or error}.")
