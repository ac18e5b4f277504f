"""`cnnkit sweep OPERATION`: the options of `cnnkit run OPERATION`, each with several values."""

import copy
import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.operations import SHARED, OperationGroup, keyword, parameter, sources

if TYPE_CHECKING:
    from cnnkit.host.operation import Operation

GRAMMAR = """
Every combination of the values below is computed into one folder, with a contact sheet and a table of all.

Commas separate values: --patch 16,32,48. Where a value has commas itself, semicolons do: "a,b;c" are two
and "a,b;" is one. A flag that is given again adds values. The flag that is given last goes across the sheet.

Ctrl-C keeps what there is, and the same command goes on from there.
"""
VARIABLE = ("model", "weights", "input_size", "seed")
"""Settings of a run that a sweep can vary."""
LEFT_OUT = ("skip_existing", "resume")


class SweepGroup(OperationGroup):
    """The operations by name, with a sweep's options."""

    def help_for(self, operation: "Operation") -> str:
        return f"{operation.summary}\n{GRAMMAR}"

    def function(self, operation: "Operation") -> Any:
        from cnnkit.host.options import fields_of

        fields = {field.name: field for field in fields_of(operation.options)}

        @well_mannered
        def command(ctx: typer.Context, **given: Any) -> None:
            from cnnkit.host.grid import alternatives

            texts = {name: given.pop(name) for name in [*fields, *VARIABLE] if name in given}
            grid = {
                name: texts[name]
                if isinstance(texts[name][0], bool)
                else alternatives(texts[name], fields.get(name))
                for name in ctx.params  # in the order of the command line
                if texts.get(name)
            }
            carry_out(operation.name, grid, **given)

        shared = [each for each in SHARED[operation.needs == "nothing"] if each.name not in LEFT_OUT]
        parameters = [
            keyword("ctx", typer.Context),
            *sources(operation),
            *(_with_alternatives(parameter(operation, field)) for field in fields.values()),
            *(_with_alternatives(each) if each.name in VARIABLE else each for each in shared),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command


def carry_out(
    operation: str,
    grid: dict[str, list[Any]],
    *,
    sources: list[str] | None = None,
    preprocess: str | None = None,
    fit: str | None = None,
    filter: str | None = None,
    labels: str | None = None,
    output: str | None,
    report: str | None,
    force: bool,
    json: bool,
    quiet: bool,
    recursive: bool,
    device: str,
    threads: int | None,
    max_memory: str | None,
    batch: int | None,
) -> None:
    """Sweep as the command line asked, and leave with its exit code: of a failure of all, the first one's."""
    from cnnkit.cli.terminal import Terminal, print_json
    from cnnkit.host.context import Settings, bytes_of
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import Job, ModelSpec
    from cnnkit.host.sweep import Sweep
    from cnnkit.host.tabulating import record

    terminal = Terminal(quiet)
    spec = ModelSpec(preprocess=preprocess, fit=fit, filter=filter, labels=labels)
    settings = Settings(device, threads, bytes_of(max_memory) if max_memory else None, batch)
    sweep = Sweep(
        Job(operation, tuple(sources or ()), spec),
        grid,
        default_host(),
        settings,
        terminal,
        output=output,
        report=report,
        force=force,
        recursive=recursive,
    )
    for cell in sweep.cells():
        if cell.error is not None:
            terminal.write(f"error: {cell.label}: {cell.error}" if cell.label else f"error: {cell.error}")
        if json:
            print_json(record(cell, sweep.axes))
    if not json:
        typer.echo(sweep.result.text)
    for path in sweep.paths:
        terminal.say(f"wrote {path}")
    errors = [cell.error for cell in sweep.table if cell.error is not None]
    raise typer.Exit(errors[0].exit_code if len(errors) == len(sweep.table) else 1 if errors else 0)


def _with_alternatives(one: inspect.Parameter) -> inspect.Parameter:
    """The same flag for several values; of a switch both ways may be given."""
    kind, asked = get_args(one.annotation)
    asked = copy.copy(asked)
    asked.min, asked.metavar = None, asked.metavar or ("TEXT" if kind is not bool else None)
    if asked.autocompletion:
        asked.autocompletion = _of_the_last(asked.autocompletion)
    is_switch = bool in (kind, *get_args(kind))
    return keyword(one.name, Annotated[list[bool] if is_switch else list[str], asked], None)


def _of_the_last(complete: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Completes the value behind the last comma or semicolon, by the first of the networks."""

    def completed(ctx: typer.Context, incomplete: str) -> list[str]:
        from cnnkit.host.grid import alternatives

        before, last = re.fullmatch(r"(.*[,;])?(.*)", incomplete).groups("")  # type: ignore[union-attr]
        chosen = {
            name: alternatives(ctx.params.get(name) or [""])[0] or None for name in ("model", "weights")
        }
        known = {"ctx": SimpleNamespace(params=chosen), "incomplete": last}
        wanted = inspect.signature(complete).parameters
        return [before + word for word in complete(**{name: known[name] for name in wanted})]

    return completed
