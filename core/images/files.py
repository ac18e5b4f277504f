"""Bytes from the disk and back: reading with one clear sentence per failure, writing all or nothing."""

import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from cnnkit.errors import ImageError, OutputError

LARGEST_FILE = 1 << 30
"""Bytes of the largest picture file that is read; 100 megapixels of 16-bit RGBA take 800 million."""


def read_picture_file(path: str) -> bytes:
    """The bytes of the file at `path`, or of standard input where `path` is "-".

    ImageError when there is no such file, it is a directory, unreadable, empty, or larger than LARGEST_FILE.
    """
    shown = "standard input" if path == "-" else repr(path)
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ImageError(f"there is no file {shown}") from None
    except IsADirectoryError:
        raise ImageError(
            f"{shown} is a folder, not a picture; of a source that is a folder the pictures in it are taken, "
            "with -r those in its folders too"
        ) from None
    except PermissionError:
        raise ImageError(f"{shown} may not be read: its permissions forbid it") from None
    except (OSError, ValueError) as problem:  # ValueError: a path with a null byte in it
        raise ImageError(f"{shown} cannot be read: {_reason(problem)}") from None
    if not data:
        raise ImageError(f"{shown} is empty: a picture was expected")
    if len(data) > LARGEST_FILE:
        raise ImageError(f"{shown} holds more than {LARGEST_FILE >> 20} MiB, the limit for a picture file")
    return data


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `data`, whole or in pieces, to `path`: a reader sees the old file or the new one, never a part.

    A symbolic link is followed; a pipe or device is written directly. OutputError when it cannot be done;
    then nothing is left behind.
    """
    pieces = [data] if isinstance(data, bytes) else data
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                file.writelines(pieces)
            return
        target = Path(os.path.realpath(path))
        draft = target.parent / f".cnnkit-{secrets.token_hex(8)}.tmp"
        try:
            # os.open rather than tempfile, whose files are readable by their owner only.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with open(os.open(draft, flags, 0o666), "wb") as file:
                file.writelines(pieces)
            os.replace(draft, target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except FileNotFoundError:
        raise OutputError(f"cannot write {str(path)!r}: its folder does not exist") from None
    except IsADirectoryError:
        raise OutputError(f"cannot write {str(path)!r}: it is a directory") from None
    except (OSError, ValueError) as problem:
        raise OutputError(f"cannot write {str(path)!r}: {_reason(problem)}") from None


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
