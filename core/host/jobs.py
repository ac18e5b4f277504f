"""Run and map: carry out a job. What the command line, Python and other programs all call.

Job --execute--> Outcome, Outcome, …     one per picture: its Result, or the error that stopped it
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, DeviceError, ImageError, ModelError, UsageError
from cnnkit.graphs.model import Model
from cnnkit.host.context import Context, LogReporter, Reporter, Settings
from cnnkit.host.desk import Desk
from cnnkit.host.host import Host, default_host
from cnnkit.host.manifest import manifest
from cnnkit.host.operation import Job, ModelSpec, Operation, portable
from cnnkit.host.options import build_options, complete
from cnnkit.host.paths import Destination, stem_of
from cnnkit.host.result import Result, jsonable, to_json_line
from cnnkit.images.image import Image

DEFAULT = "default"
"""The network that every install has."""


@dataclass
class Outcome:
    """What became of one source: a result or an error, and the files it was written to.

    `source` is as it was asked for; None for a result that is about all pictures, or about none. One that is
    `skipped` was made before, one that is `unfinished` was interrupted: then `place` has what there is.
    """

    source: Any
    result: Result | None = None
    error: CnnkitError | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    skipped: bool = False
    unfinished: bool = False
    desk: Desk | None = None
    place: Destination | None = None
    """Where its files lie, when they do."""
    picture: Image | None = None
    """What standard input held, which cannot be read again."""
    seconds: float | None = None
    """That it took, where it was alone."""

    def unwrap(self) -> Result:
        """The result. Raises the error where there is one instead."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def to_json(self) -> dict[str, Any]:
        """The outcome as one JSON object: its source, what was found, the files written, or the error."""
        told: dict[str, Any] = {"source": portable(self.source)}
        if self.error is not None:
            return {**told, "error": str(self.error)}
        if self.result is None:
            return {**told, "skipped": True}
        return {**told, **jsonable(self.result.data), "outputs": [str(path) for path in self.paths]}

    def save(self, destination: Destination, force: bool = False) -> list[Path]:
        """Write the result's files and its manifest; returns their paths. Raises OutputError."""
        self.paths = self.unwrap().write(destination, force, kept=self.desk.shown if self.desk else None)
        self.place = destination
        if self.desk:
            self.desk.clear()
        return self.paths


def run(
    operation: str | Operation,
    source: Any = None,
    *,
    model: str | Path | ModelSpec | Model = "",
    host: Host | None = None,
    seed: int = 0,
    settings: Settings = Settings(),
    reporter: Reporter | None = None,
    **options: Any,
) -> Result:
    """The result of one operation on one source.

    `source` is a path, `sample:NAME`, a file's bytes, a PIL picture, a numpy array (height, width[,
    channels]) or an `Image`; a folder for operations that take one; None for those that take nothing. `model`
    is a known name, the path of an ONNX file, a `ModelSpec`, or a loaded `Model`; by default it is the one
    that the operation asks for, mostly "default". The rest are the
    operation's options. Raises CnnkitError, as `cnnkit.errors` has it.
    """
    sources = [] if source is None else [source]
    outcomes = map(
        operation, sources, model=model, host=host, seed=seed, settings=settings, reporter=reporter, **options
    )
    return next(outcomes).unwrap()


def map(
    operation: str | Operation,
    sources: Iterable[Any],
    *,
    model: str | Path | ModelSpec | Model = "",
    host: Host | None = None,
    seed: int = 0,
    settings: Settings = Settings(),
    reporter: Reporter | None = None,
    **options: Any,
) -> Iterator[Outcome]:
    """One `Outcome` per source, in order, as they come; a bad picture is an outcome with an error.

    An operation that sums up (classify with a truth table) adds an outcome without source at the end. Raises
    what would stop every picture: UsageError, ModelError, DeviceError.
    """
    loaded = model if isinstance(model, Model) else None
    spec = model if isinstance(model, ModelSpec) else ModelSpec(str(model)) if loaded is None else None
    name = operation if isinstance(operation, str) else operation.name
    job = Job(name, tuple(sources), spec, options, seed)
    return execute(
        job,
        host or default_host(),
        settings,
        reporter if reporter is not None else LogReporter(),
        model=loaded,
        operation=None if isinstance(operation, str) else operation,
    )


def execute(
    job: Job,
    host: Host,
    settings: Settings,
    reporter: Reporter,
    *,
    model: Model | None = None,
    operation: Operation | None = None,
    desks: Iterable[Desk] = (),
) -> Iterator[Outcome]:
    """Carry out a job, yielding outcomes as they come; writes only what an operation puts on its desk.

    `model` and `operation` stand in for what the job names; `desks` are one for each source.
    Raises UsageError, ModelError and DeviceError, which no picture could escape.
    """
    origin = "the calling program" if operation else _origin(host, job.operation)
    operation = operation or host.operation(job.operation)
    options = build_options(operation.options, job.options, Image.load)
    spec = network = None
    if operation.needs != "nothing":
        spec = network_of(operation, options, job.model) if model is None else None
        mention_default(operation, job.model, spec, reporter)
        network = _network(spec, host, reporter) if spec else model
    if operation.needs == "classifier":
        _ = network and network.classes
    job = replace(job, options=complete(options, job.options), model=spec)
    context = Context(host, settings, job.seed, reporter, network)
    waiting = iter(desks)

    def told(picture: Image | None, sources: Sequence[Any]) -> dict[str, Any]:
        return manifest(replace(job, sources=tuple(sources)), settings, picture, network, origin)

    def outcome(source: Any, picture: Image | None, result: Any, sources: Sequence[Any]) -> Outcome:
        if not isinstance(result, Result):
            raise TypeError(f"it returned {type(result).__name__}, not a Result")
        to_json_line(result.data)  # raises here, where it is known whose data is no JSON
        result.manifest = told(picture, sources)
        kept = picture if isinstance(source, str) and source == "-" else None
        return Outcome(source, result, manifest=result.manifest, picture=kept)

    def alone(source: Any) -> Outcome:
        """One picture, one folder, or nothing, with a desk of its own."""
        desk = next(waiting, None)
        sources = () if source is None else [source]
        picture = _load(source, context) if operation.takes == "picture" else None
        if desk:
            desk.manifest = told(picture, sources)
        fresh = Context(host, settings, job.seed, reporter, network, desk)
        given = picture or (None if source is None else Path(source))
        found = operation.run(given, network, options, fresh)
        made = outcome(source, picture, fresh.completed(found), sources)
        made.desk = desk
        return made

    if operation.takes == "nothing":
        if job.sources:
            raise UsageError(f"{operation.name} takes no pictures, but {len(job.sources)} were given.")
        yield _attempt(operation, None, alone)
        return
    if not job.sources:
        raise UsageError(f"{operation.name} needs a {operation.takes.removesuffix('s')}; none was given.")
    if operation.takes == "pictures":
        yield from _in_a_stream(operation, job, network, options, context, outcome)
        return
    many = len(job.sources) > 1
    for source in context.progress(job.sources, label=operation.name) if many else job.sources:
        yield _attempt(operation, source, alone)


def network_of(operation: Operation, options: Any, spec: ModelSpec | None) -> ModelSpec | None:
    """The network that is asked for, or else the one that the operation takes, if any."""
    spec = spec or ModelSpec()
    own = operation.network(options) if operation.network and not spec.name else DEFAULT
    name = spec.name or own
    return replace(spec, name=name) if name else None


def mention_default(
    operation: Operation, asked: ModelSpec | None, taken: ModelSpec | None, reporter: Reporter
) -> None:
    """Say that the default network is taken, where nobody asked for it, and how to get a larger one."""
    if taken and taken.name == DEFAULT and not (asked and asked.name):
        reporter.say(
            f"the network is '{DEFAULT}', which is small; `cnnkit models pull {operation.larger}` fetches a "
            f"larger one, for --model {operation.larger}"
        )


Made = Callable[[Any, Image | None, Result, Sequence[Any]], Outcome]


def _in_a_stream(
    operation: Operation, job: Job, model: Model | None, options: Any, context: Context, outcome: Made
) -> Iterator[Outcome]:
    """Results come in the order of the pictures that could be loaded; the others take their places again.

    Where the operation stops early, every picture without a result fails.
    """
    unread = iter(job.sources)
    pending: deque[tuple[Any, Image | None, ImageError | None]] = deque()

    def pictures() -> Iterator[Image]:
        for source in unread:
            try:
                picture = _load(source, context)
            except ImageError as error:
                pending.append((source, None, error))
            else:
                pending.append((source, picture, None))
                yield picture

    def failures() -> Iterator[Outcome]:
        while pending and pending[0][2] is not None:
            source, _, error = pending.popleft()
            yield Outcome(source, error=error)

    stop: BaseException = RuntimeError("it gave no result")
    try:
        for result in operation.run(pictures(), model, options, context):
            yield from failures()
            source, picture, _ = pending[0] if pending else (None, None, None)
            made = outcome(source, picture, result, [source] if pending else job.sources)
            if pending:
                pending.popleft()
            yield made
    except (Exception, SystemExit) as error:
        stop = error
        if not pending:
            yield Outcome(None, error=blamed(operation, None, error))
    for source, _, problem in [*pending, *((source, None, None) for source in unread)]:
        yield Outcome(source, error=problem or blamed(operation, source, stop))


def _attempt(operation: Operation, source: Any, act: Callable[[Any], Outcome]) -> Outcome:
    """What `act` makes of a source. An operation may be anybody's code: what it raises stops no other."""
    begun = time.monotonic()
    try:
        made = act(source)
        made.seconds = time.monotonic() - begun
        return made
    except (Exception, SystemExit) as error:
        return Outcome(source, error=blamed(operation, source, error))


def _load(source: Any, context: Context) -> Image:
    picture = Image.load(source)
    for note in picture.notes:
        context.say(f"{picture.source or picture.name}: {note}")
    return picture


def _network(spec: ModelSpec, host: Host, reporter: Reporter) -> Model:
    model = host.model(spec)
    for assumption in model.assumptions:
        reporter.say(f"{model.name}: {assumption}")
    return model


def _origin(host: Host, name: str) -> str:
    owners = [p for p in host.plugins if p.group == "cnnkit.operations" and p.name == name]
    return next(
        (f"{p.distribution} {p.version}" for p in owners if p.state in ("ready", "loaded")), "unknown"
    )


def blamed(operation: Operation, source: Any, error: BaseException) -> CnnkitError:
    """The error as a sentence about this source. Raises it again where no other source could escape it."""
    if isinstance(error, UsageError | ModelError | DeviceError):
        raise error
    if isinstance(error, CnnkitError):
        return error
    name = source if isinstance(source, str | Path) else stem_of(source)
    where = "" if source is None else f" on {name}"
    story = " ".join(f"{type(error).__name__}: {error}".split())
    crash = CnnkitError(f"the operation {operation.name} failed{where}: {story}; --debug shows where.")
    crash.__cause__ = error
    return crash
