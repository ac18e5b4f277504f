"""What a person at a terminal sees: results on stdout, talk and progress on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cnnkit.cli.manners import debugging
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.host.doctor import Diagnosis
    from cnnkit.host.jobs import Outcome

Item = TypeVar("Item")


class Terminal:
    """A reporter for people: talk on stderr, a progress bar with the time left when stderr is a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.said: set[str] = set()
        self.bar: Any = None

    def say(self, text: str) -> None:
        if not self.quiet and text not in self.said:
            self.said.add(text)
            self.write(text)

    def write(self, text: str) -> None:
        typer.echo(text, err=True)

    def progress(
        self, items: Iterable[Item], total: int | None, label: str | Callable[[], str]
    ) -> Iterator[Item]:
        if self.quiet or not sys.stderr.isatty():
            yield from items
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        outermost = self.bar is None
        if outermost:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
        if total is None and isinstance(items, Sized):
            total = len(items)
        describe = label if callable(label) else lambda: label
        task = self.bar.add_task(describe(), total=total)
        try:
            for item in items:
                yield item
                self.bar.update(task, advance=1, description=describe())
        finally:
            self.bar.remove_task(task)
            if outermost:
                self.bar.stop()
                self.bar = None

    def transfer(self, chunks: Iterable[bytes], done: int, total: int | None, label: str) -> Iterator[bytes]:
        if self.quiet or not sys.stderr.isatty():
            yield from chunks
            return
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            for chunk in chunks:
                yield chunk
                bar.advance(task, len(chunk))


def carry_out(
    operation: str,
    options: dict[str, Any],
    *,
    sources: list[str] | None = None,
    model: str = "",
    weights: str | None = None,
    preprocess: str | None = None,
    fit: str | None = None,
    filter: str | None = None,
    labels: str | None = None,
    input_size: str | None = None,
    output: str | None,
    report: str | None,
    force: bool,
    skip_existing: bool,
    resume: bool,
    json: bool,
    quiet: bool,
    recursive: bool,
    device: str,
    threads: int | None,
    max_memory: str | None,
    batch: int | None,
    seed: int,
) -> None:
    """Run one operation as the command line asked, and leave with its exit code."""
    from cnnkit.host.context import Settings, bytes_of
    from cnnkit.host.delivery import deliver
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import Job, ModelSpec, size_of
    from cnnkit.host.report import Report

    terminal = Terminal(quiet)
    size = size_of(input_size) if input_size else None
    spec = ModelSpec(model, preprocess, fit, filter, labels, size, weights)
    job = Job(operation, tuple(sources or ()), spec, options, seed)
    settings = Settings(device, threads, bytes_of(max_memory) if max_memory else None, batch)
    failed = False
    outcomes = deliver(
        job,
        default_host(),
        settings,
        terminal,
        output=output,
        force=force,
        skip_existing=skip_existing,
        resume=resume,
        recursive=recursive,
    )
    page = Report(report, force, terminal) if report is not None else None
    with page or nullcontext():
        for outcome in outcomes:
            if page:
                page.add(outcome)
            if outcome.unfinished:
                continue
            summary = outcome.source is None and bool(job.sources)
            show(outcome, terminal, json, to_stdout=output == "-" and not summary)
            failed |= outcome.error is not None
    raise typer.Exit(1 if failed else 0)


def show(outcome: "Outcome", terminal: Terminal, json: bool = False, to_stdout: bool = False) -> None:
    """One outcome: its text or JSON on stdout, errors and the files written on stderr."""
    from cnnkit.host.result import to_json_line

    if outcome.error is not None:
        if debugging() and outcome.error.__cause__ is not None:
            import traceback

            traceback.print_exception(outcome.error.__cause__)
        terminal.write(f"error: {outcome.error}")
    if to_stdout and outcome.result is not None:
        if "" not in outcome.result.pictures:
            parts = ", ".join(outcome.result.pictures) or "none"
            raise UsageError(f"-o - needs one main picture, and this run makes {parts}; give a folder/.")
        sys.stdout.buffer.write(outcome.result.picture.encode("png"))
        sys.stdout.buffer.flush()
    elif json:
        typer.echo(to_json_line(outcome.to_json()))
    elif outcome.result is not None and outcome.result.text:
        typer.echo(outcome.result.text)
    if outcome.skipped:
        terminal.say(f"{outcome.source or 'the run'}: skipped, its result exists")
    for path in outcome.paths:
        terminal.say(f"wrote {path}")


def table(rows: Iterable[Iterable[Any]], header: Iterable[str]) -> None:
    """Rows as aligned columns on stdout; plain text, so that it can be piped."""
    lines = [[str(cell) for cell in row] for row in (tuple(header), *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    from cnnkit.host.result import to_json_line

    typer.echo(to_json_line(value))


def print_fields(fields: dict[str, Any], indent: str = "") -> None:
    """A mapping as aligned `name  value` lines; nested mappings are indented."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}")
            print_fields(value, indent + "  ")
        else:
            shown = ", ".join(str(item) for item in value) if isinstance(value, list) else value
            typer.echo(f"{indent}{name.ljust(width)}  {'' if shown is None else shown}".rstrip())


def show_diagnosis(diagnosis: "Diagnosis", json: bool) -> None:
    """What the doctor found; leaves with exit code 1 when there are complaints."""
    if json:
        print_json(diagnosis.to_json())
    else:
        print_fields(diagnosis.facts)
        for complaint in diagnosis.complaints:
            typer.echo(f"! {complaint}")
        typer.echo("all is well" if not diagnosis.complaints else "")
    raise typer.Exit(1 if diagnosis.complaints else 0)
