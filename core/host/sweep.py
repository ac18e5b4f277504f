"""Sweep: one operation over a grid of options, as cells that are ordinary jobs.

The cells share sessions, what is done is not done again, and a sheet and a table of all are written.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.host.context import LogReporter, Reporter, Settings
from cnnkit.host.delivery import SWEEP, completed, deliver, is_done
from cnnkit.host.grid import SOURCE, Cell, axes_of, cells_of, in_order
from cnnkit.host.host import Host, default_host
from cnnkit.host.jobs import Outcome, mention_default
from cnnkit.host.manifest import manifest
from cnnkit.host.operation import Job, ModelSpec
from cnnkit.host.paths import Destination, expand, read_manifest
from cnnkit.host.report import Report
from cnnkit.host.result import Result
from cnnkit.host.sheets import sheets
from cnnkit.host.tabulating import in_short, record, to_csv
from cnnkit.images.image import SUFFIXES, Image
from cnnkit.runtime.device import providers


def sweep(
    operation: str,
    sources: Any = (),
    grid: Mapping[str, Sequence[Any]] = {},
    *,
    model: str | Path | ModelSpec = "",
    seed: int = 0,
    output: str | Path | None = None,
    report: str | Path | None = None,
    force: bool = False,
    host: Host | None = None,
    settings: Settings = Settings(),
    reporter: Reporter | None = None,
    **options: Any,
) -> Result:
    """The contact sheets and the table of an operation over every combination of a grid.

    `sources` is a source as `cnnkit.run` takes it, or a list of them; `grid` has a list of values for each
    name of an option, or of "model", "weights", "input_size" and "seed"; `options` are the same for all.
    Every cell is written into the folder `output` (default: `OPERATION.sweep`) with its manifest, and what
    lies there from before is not computed again. `report` names an HTML page about all of them.

    Comes back what is also written there as sweep.png, sweep.csv and sweep.json: `pictures` "" the sheet
    (with more than two axes one for each value of the others, "style=wave"), "snapshots" where the cells
    have some; `data["cells"]` a record for each cell with its values, "seconds", "data" and "outputs", or
    with the "error" that it ended with.

    Raises UsageError, ImageError, ModelError and DeviceError for what no cell could escape.
    """
    whole = Sweep(
        Job(
            operation,
            tuple(sources) if isinstance(sources, list | tuple) else (sources,),
            model if isinstance(model, ModelSpec) else ModelSpec(str(model)),
            seed=seed,
        ),
        {**grid, **{name: [value] for name, value in options.items()}},
        host or default_host(),
        settings,
        LogReporter() if reporter is None else reporter,
        output=str(output) if output is not None else None,
        report=report,
        force=force,
    )
    for cell in whole.cells():
        if cell.error is not None:
            whole.reporter.say(f"{cell.label}: {cell.error}")
    return whole.result


class Sweep:
    """A job whose options vary, all of them checked before anything is computed.

    `job` has the sources and what does not vary of network and seed; `grid` the values of every option.
    When all `cells` are drawn, `result` is what they come to and `paths` are its files.

    Raises UsageError, ImageError, ModelError and DeviceError.
    """

    def __init__(
        self,
        job: Job,
        grid: Mapping[str, Sequence[Any]],
        host: Host,
        settings: Settings,
        reporter: Reporter,
        *,
        output: str | None = None,
        report: str | Path | None = None,
        force: bool = False,
        recursive: bool = False,
    ) -> None:
        self.report = Report(report, force, reporter) if report is not None else None
        self.job, self.host, self.settings, self.reporter = job, host, settings, reporter
        self.force = force
        folder = Path(output or f"{job.operation}.{SWEEP}")
        if output == "-":
            raise UsageError("-o - holds one picture, and a sweep makes many; give a folder/.")
        if folder.is_file() or folder.suffix.lower() in SUFFIXES:
            raise UsageError(
                f"-o {output} is one file, and a sweep makes many; give a folder: -o {folder.stem}/"
            )
        self.place = Destination(folder / SWEEP)
        self.place.refuse_strangers([".json", ".csv", ".png"], force)
        self.result, self.paths = Result(), list[Path]()
        providers(settings.device)  # refuses a device that is not there
        self.axes = axes_of(host.operation(job.operation), self._sources(recursive), grid)
        self.table = cells_of(self.axes, job, folder)
        self._asked = {cell: completed(cell.job, host) for cell in self.table}
        unnamed = (cell for cell in self.table if not (cell.job.model and cell.job.model.name))
        if cell := next(unnamed, None):
            mention_default(host.operation(job.operation), None, self._asked[cell].model, reporter)
        for spec in dict.fromkeys(asked.model for asked in self._asked.values()):
            if spec and not host.weights_of(spec):
                host.locate(spec.name)
        before = read_manifest(self.place.manifest) or {}
        known = {each.get("cell"): each.get("seconds") for each in before.get("data", {}).get("cells", ())}
        for cell in self.table:
            self._look(cell)
            cell.seconds = known.get(cell.place.stem.name) if cell.manifest else None

    def cells(self) -> Iterator[Cell]:
        """Each cell when it is there, in the order in which they share most; then all is written.

        An interruption keeps what there is, and the same sweep goes on from there.
        """
        order = in_order(self.table, self.axes)
        missing = [cell for cell in order if cell.manifest is None]
        if len(missing) < len(order):
            self.reporter.say(f"{len(order) - len(missing)} of {len(order)} are done already")
        begun, computed = time.monotonic(), 0
        try:
            with self.host.sweeping():
                followed = self.reporter.progress(order, len(order), self.job.operation)
                for number, cell in enumerate(followed, 1):
                    if cell in missing:
                        self._compute(cell)
                        computed += 1
                        left = (time.monotonic() - begun) / computed * (len(missing) - computed)
                        told = f"{number} of {len(order)}: {cell.label or self.job.operation}"
                        self.reporter.say(f"{told} ({_duration(left)} left)" if round(left) else told)
                        self._result({}).write(self.place, self.force, unfinished=True)
                    yield cell
        finally:
            self.result = self._result(sheets(self.job.operation, self.axes, self.table))
            self.paths = self.result.write(self.place, self.force)
            if self.report:
                self._tell(self.report)
            if computed < len(missing):
                ready = sum(cell.manifest is not None for cell in order)
                self.reporter.say(f"{ready} of {len(order)} are done; the same command goes on from there")

    def _result(self, pictures: dict[str, Image]) -> Result:
        """The table of what there is, with these sheets."""
        options = {axis.name: list(axis.values) for axis in self.axes if axis.name != SOURCE}
        job = replace(self.job, operation=SWEEP, options={"operation": self.job.operation, **options})
        return Result(
            pictures,
            data={"cells": [record(cell, self.axes) for cell in self.table]},
            files={"csv": to_csv(self.table, self.axes)},
            text=in_short(self.table, self.axes),
            manifest=manifest(job, self.settings, None, None, f"cnnkit {version('cnnkit')}"),
        )

    def _tell(self, page: Report) -> None:
        """The sheets and the table on a page, and each cell."""
        page.title = f"{SWEEP} of {self.job.operation}"
        with page:
            page.add(replace(self.result, data={}), f"All {len(self.table)}")
            for cell in self.table:
                why = cell.error or CnnkitError("It is not computed yet.")
                error = None if cell.manifest else why
                (source,) = cell.job.sources or [None]
                page.add(Outcome(source, error=error, place=cell.place, seconds=cell.seconds), cell.label)

    def _sources(self, recursive: bool) -> list[Any]:
        operation, given = self.host.operation(self.job.operation), self.job.sources
        if operation.takes == "nothing" and given:
            raise UsageError(f"{operation.name} takes no pictures, but {len(given)} were given.")
        if operation.takes != "nothing" and not given:
            raise UsageError(f"{operation.name} needs a {operation.takes.removesuffix('s')}; none was given.")
        if "-" in [source for source in given if isinstance(source, str)]:
            raise UsageError("standard input can be read only once; give a sweep the file.")
        return list(given) if operation.takes == "folder" else expand(given, recursive)

    def _compute(self, cell: Cell) -> None:
        """Its files, or its error."""
        begun = time.monotonic()
        where = str(cell.place.path(cell.place.suffix))
        try:
            run = self.host, self.settings, self.reporter
            named = replace(cell.job, model=self._asked[cell].model)
            outcomes = deliver(named, *run, output=where, force=self.force, resume=True)
            errors = [outcome.error for outcome in outcomes if outcome.error]
            cell.error = errors[0] if errors else None
        except CnnkitError as error:
            cell.error = error
        cell.manifest = None if cell.error else cell.place.read()
        cell.seconds = time.monotonic() - begun

    def _look(self, cell: Cell) -> None:
        """Whether its result is there."""
        cell.manifest = cell.place.read() if is_done(self._asked[cell], cell.place) else None


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
