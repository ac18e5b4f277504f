"""What can go wrong, as one tree. Each class carries the exit code of the command line.

CnnkitError        1
├── ImageError     1   a picture that cannot be used
├── OutputError    1   a file that cannot be written
├── UsageError     2   a request that makes no sense
│   └── PluginError    a plugin that is missing, broken, disabled or ambiguous
├── ModelError     3   a network that is missing, corrupt or unfit
└── DeviceError    4   a device that is not there
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CnnkitError(Exception):
    """Any error that cnnkit raises on purpose: one sentence for the person who asked."""

    exit_code = 1


class ImageError(CnnkitError):
    """A picture is missing, broken, too large, or no picture at all."""


class OutputError(CnnkitError):
    """An output cannot be written, or would overwrite something that cnnkit did not write."""


class UsageError(CnnkitError):
    """The request itself is wrong: an unknown name, a value out of range."""

    exit_code = 2


class PluginError(UsageError):
    """A plugin is missing, broken, disabled, or its name is claimed twice."""


class ModelError(CnnkitError):
    """A network file is missing, corrupt, or cannot do what is asked of it."""

    exit_code = 3


class DeviceError(CnnkitError):
    """A device was asked for by name and is not available."""

    exit_code = 4


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A question to append to an error, or an empty string when nothing comes close."""
    names = {name.lower(): name for name in candidates}
    close = get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f" Did you mean '{names[close[0]]}'?" if close else ""
