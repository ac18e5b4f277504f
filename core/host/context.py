"""What an operation gets from the host while it runs."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cnnkit.graphs.autodiff.rules import Rule
    from cnnkit.graphs.model import Model
    from cnnkit.graphs.training import Loss
    from cnnkit.host.desk import Desk
    from cnnkit.host.host import Host
    from cnnkit.host.result import Result
    from cnnkit.runtime.session import Session
    from cnnkit.runtime.training import TrainingSession

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """How a job runs, which changes nothing of what it finds but rounding.

    `device` is auto, cpu or cuda; `threads` the processor threads (None: all cores); `max_memory` a bound in
    bytes on what a batch may take (None: a few hundred MB at the most); `batch` a fixed batch size (None:
    measured).
    """

    device: str = "auto"
    threads: int | None = None
    max_memory: int | None = None
    batch: int | None = None


def bytes_of(text: str) -> int:
    """The number of bytes that "800MB", "1.5 GiB" or "2000000" means. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if match is None:
        raise UsageError(f"a size in memory is a number and a unit, such as 800MB or 2GiB, not '{text}'.")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit or " "))


Label = str | Callable[[], str]
"""What a progress bar says; a function is asked again after each item."""


class Reporter(Protocol):
    """Where talk and progress go: a terminal, a log, nowhere."""

    def say(self, text: str) -> None: ...

    def progress(self, items: Iterable[Item], total: int | None, label: Label) -> Iterator[Item]: ...

    def transfer(self, chunks: Iterable[bytes], done: int, total: int | None, label: str) -> Iterator[bytes]:
        """The same chunks, while their bytes are counted from `done` to `total`."""


class LogReporter:
    """Talk goes to the logger `cnnkit`, progress nowhere: the manners of a library."""

    def say(self, text: str) -> None:
        logging.getLogger("cnnkit").info(text)

    def progress(self, items: Iterable[Item], total: int | None, label: Label) -> Iterator[Item]:
        yield from items

    def transfer(self, chunks: Iterable[bytes], done: int, total: int | None, label: str) -> Iterator[bytes]:
        yield from chunks


class Context:
    """Sessions, random numbers, progress and talk for one call of an operation.

    Sessions are cached in the host, so pictures, sweeps and nested operations share them. `random` starts
    from the job's seed for each picture, so a picture's result does not depend on its neighbours.
    """

    def __init__(
        self,
        host: "Host",
        settings: Settings,
        seed: int,
        reporter: Reporter,
        model: "Model | None" = None,
        desk: "Desk | None" = None,
    ) -> None:
        self.host = host
        self.settings = settings
        self.seed = seed
        self.reporter = reporter
        self.model = model
        self.random = np.random.default_rng(seed)
        self._desk = desk
        self._emitted: list[Result] = []

    def session(self, model: "Model", keep: bool = True) -> "Session":
        """A forward session of `model` on the device that the user chose.

        Without `keep` its memory is free again after use, unless a sweep will use it again.
        """
        return self.host.session(model, keep, **asdict(self.settings))

    def training(
        self,
        model: "Model",
        loss: "Loss",
        wrt: Sequence[str],
        taps: Sequence[str] = (),
        rules: "Mapping[str, Rule] | None" = None,
        **settings: Any,
    ) -> "TrainingSession":
        """A session that differentiates `loss`, on the device that the user chose; see `TrainingSession`.

        It is kept for the next picture when `loss` equals the last one: a function, or an instance of a
        frozen dataclass that can be called. `rules` are gradient rules that win over all others.
        """
        where = {"device": self.settings.device, "threads": self.settings.threads}
        return self.host.training(model, loss, wrt, taps, rules, **where, **settings)

    def progress(self, items: Iterable[Item], total: int | None = None, label: Label = "") -> Iterator[Item]:
        """The same items, while a progress bar on the terminal follows them; a function's label changes."""
        return self.reporter.progress(items, total, label)

    def say(self, text: str) -> None:
        """One line of talk for the person who watches; never for results."""
        self.reporter.say(text)

    def emit(self, result: "Result") -> None:
        """Put a snapshot on disk at once: its pictures, arrays and files become part of the final result.

        A run without a place for its outputs keeps them in memory.
        """
        if self._desk:
            self._desk.show(result)
        else:
            self._emitted.append(result)

    def save(self, state: "Mapping[str, NDArray[Any]]") -> None:
        """Keep the state of the run on disk, so that it can go on after an interruption.

        A run without a place for its outputs keeps nothing.
        """
        if self._desk:
            self._desk.save(state)

    def restore(self) -> "dict[str, NDArray[Any]] | None":
        """What `save` kept last, when the user asks the run to go on (`--resume`), else None.

        Raises UsageError when it belongs to another run.
        """
        return self._desk.restore() if self._desk else None

    def completed(self, result: Any) -> Any:
        """The result with what was emitted into memory before it."""
        for part in reversed(self._emitted):
            result.pictures = part.pictures | result.pictures
            result.arrays = part.arrays | result.arrays
            result.files = part.files | result.files
        return result

    def run(self, operation: str, source: Any, model: "Model | None" = None, **options: Any) -> "Result":
        """Another operation on the same host, settings and seed; on the same network if no other is given."""
        from cnnkit.host.jobs import execute
        from cnnkit.host.operation import Job

        job = Job(operation, (source,), None, options, self.seed)
        outcomes = execute(job, self.host, self.settings, self.reporter, model=model or self.model)
        return next(iter(outcomes)).unwrap()
