"""From outcomes to files: deliver, and rerun from the manifest that a delivery wrote.

Job --deliver--> Outcome, Outcome, …     each with its files and its manifest on disk
manifest --rerun--> Outcome              the same files again
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnkit.errors import OutputError, UsageError
from cnnkit.host.context import LogReporter, Reporter, Settings
from cnnkit.host.desk import Desk
from cnnkit.host.host import Host, default_host
from cnnkit.host.jobs import Outcome, blamed, execute, mention_default, network_of
from cnnkit.host.operation import MEMORY, Job
from cnnkit.host.options import build_options, complete, fields_of
from cnnkit.host.paths import Destination, destination, destinations, expand, read_manifest, stem_of
from cnnkit.host.result import jsonable

SWEEP = "sweep"
"""Stands in the manifest of a sweep where that of a job has its operation."""


def deliver(
    job: Job,
    host: Host,
    settings: Settings,
    reporter: Reporter,
    *,
    output: str | None = None,
    force: bool = False,
    skip_existing: bool = False,
    recursive: bool = False,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Carry out a job and write every result with its manifest.

    Results go beside their sources, or to `output`, a file or a folder; with "-" nothing is written, the
    caller has the pictures. A result that is data only is written where `output` is given. `skip_existing`
    leaves out sources for which the same job has left its manifest and files, `recursive` looks into the
    sub-folders of folders, `resume` goes on from the checkpoints of an interrupted run, of which it
    leaves out what is done. An interruption is raised behind an outcome of what was begun, if there is some.
    """
    operation = host.operation(job.operation)
    if operation.takes != "folder":
        job = replace(job, sources=tuple(expand(job.sources, recursive)))
    if output == "-":
        if len(job.sources) > 1:
            raise UsageError(f"-o - holds one picture, but there are {len(job.sources)}; give a folder/.")
        yield from execute(job, host, settings, reporter)
        return
    whole = completed(job, host)
    mention_default(operation, job.model, whole.model, reporter)
    job = replace(job, model=whole.model)
    sources: list[Any] = [*job.sources]
    places = destinations(job.operation, sources, output)
    if operation.takes == "nothing" and not sources:
        name = host.model(job.model).name if job.model else "cnnkit"
        sources, places = [None], [destination(name, job.operation, output)]
    left: list[tuple[Any, Destination]] = []
    for source, place in zip(sources, places, strict=True):
        alone = replace(whole, sources=() if source is None else (source,))
        if (skip_existing or resume) and is_done(alone, place):
            yield Outcome(source, skipped=True, place=place)
            continue
        try:
            _spare_the_source(source, place)
            place.refuse_strangers([place.suffix, ".npz"], force)
        except OutputError as error:
            yield Outcome(source, error=error)
        else:
            left.append((source, place))
    if sources and not left:
        return
    waiting = deque(place for _, place in left)
    job = replace(job, sources=tuple(source for source, _ in left if source is not None))
    desks = [Desk(place, force, resume) for place in waiting]
    try:
        for outcome in execute(job, host, settings, reporter, desks=desks):
            is_whole = outcome.source is None
            place = _place_of_the_whole(job, outcome, output) if is_whole else waiting.popleft()
            result = outcome.result
            if result and (output is not None or result.pictures or result.arrays or result.files):
                try:
                    outcome.save(place, force)
                except Exception as error:
                    outcome.error = blamed(operation, outcome.source, error)
            yield outcome
    except KeyboardInterrupt:
        if waiting and desks[-len(waiting)].shown:
            source, place = left[-len(waiting)]
            yield Outcome(source, unfinished=True, place=place)
        raise


def rerun(
    path: str | Path,
    *,
    host: Host | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
    output: str | None = None,
    force: bool = False,
) -> Outcome:
    """Repeat the job of a manifest and write its outputs again, in the same place or to `output`.

    `device` stands in for the manifest's. Says where the picture or the network is no longer the one of the
    manifest. Raises UsageError for a file that is no manifest and for a job whose sources came from standard
    input or from memory.
    """
    if output == "-":
        raise UsageError("a rerun writes files and a manifest; give -o a file or a folder/.")
    path, host = Path(path), host or default_host()
    reporter = LogReporter() if reporter is None else reporter
    told = read_manifest(path)
    if told is None:
        raise UsageError(
            f"{path} is no manifest of cnnkit (a run writes one beside its outputs, ending in .json)."
        )
    if told["job"]["operation"] == SWEEP:
        raise UsageError(f"{path} is of a sweep: rerun the manifest of one of its cells.")
    job = _repeatable(Job.from_json(told["job"]), host, told, path)
    suffixes = [Path(name).suffix for name in told.get("outputs", {}) if not name.endswith(".npz")]
    place = Destination(path.with_name(path.name.removesuffix(".json")), suffixes[0] if suffixes else ".png")
    settings = Settings(**told["settings"])
    outcomes = list(execute(job, host, replace(settings, device=device or settings.device), reporter))
    outcome = outcomes[0 if told["picture"] else -1]
    outcome.unwrap()
    if output is not None and outcome.source is not None:
        place = destination(stem_of(job.sources[0]), job.operation, output)
    elif output is not None:
        place = _place_of_the_whole(job, outcome, output)
    for what in ("picture", "model"):
        before, now = told.get(what) or {}, outcome.manifest.get(what) or {}
        if before.get("sha256") != now.get("sha256"):
            reporter.say(f"the {what} is not the same file as in {path.name}: expect another result")
    outcome.save(place, force)
    return outcome


def completed(job: Job, host: Host) -> Job:
    """The job with every option, and with the network that its operation takes where it names none.

    Raises UsageError for options that do not fit.
    """
    operation = host.operation(job.operation)
    plain = build_options(operation.options, job.options, lambda source: source)
    model = None if operation.needs == "nothing" else network_of(operation, plain, job.model)
    return replace(job, model=model, options=complete(plain, job.options))


def is_done(job: Job, place: Destination) -> bool:
    """Whether the manifest there is of the same completed job and all that it lists is there too."""
    told = read_manifest(place.manifest)
    if told is None:
        return False
    model = job.model if told["model"] else None
    asked = jsonable(replace(job, model=model).to_json())
    options = [value if isinstance(value, list) else [value] for value in asked["options"].values()]
    if {None, "-"} & {*asked["sources"]} or any(MEMORY in values for values in options):
        return False  # nobody knows which picture it was
    return (
        bool(told["job"] == asked)
        and "unfinished" not in told
        and all(place.stem.with_name(name).exists() for name in told["outputs"])
    )


def _spare_the_source(source: Any, place: Destination) -> None:
    """Refuse to write a result onto the picture that it is made of, forced or not."""
    if isinstance(source, str | Path) and place.path(place.suffix).absolute() == Path(source).absolute():
        raise OutputError(f"{source} is the picture itself; choose another name with -o.")


def _repeatable(job: Job, host: Host, told: Mapping[str, Any], path: Path) -> Job:
    sources = [*job.sources]
    for option in fields_of(host.operation(job.operation).options):
        if option.is_picture and (value := job.options.get(option.name)):
            sources += value if option.many else [value]
    for source in sources:
        if source in (None, "-", MEMORY):
            origin = "standard input" if source == "-" else "memory"
            raise UsageError(
                f"{path} was made from a picture out of {origin}, which cannot be read again; "
                f"run {job.operation} on a file instead."
            )
    if told.get("model") and job.model is None:
        raise UsageError(
            f"{path} was made with a network out of memory; run {job.operation} with an ONNX file."
        )
    return job


def _place_of_the_whole(job: Job, outcome: Outcome, output: str | None) -> Destination:
    """Where a result goes that is about all pictures together, or about the network alone."""
    if not job.sources:
        return destination((outcome.manifest.get("model") or {}).get("name", "cnnkit"), job.operation, output)
    place = destination("summary", job.operation, output)
    one_file = output is not None and place.stem.name != f"summary.{job.operation}"
    return replace(place, stem=place.path(".summary")) if one_file else place
