"""The command line: which commands there are. Each imports what it needs when it is called."""

import sys
from typing import Annotated

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.operations import OperationGroup
from cnnkit.cli.sweep import SweepGroup

app = typer.Typer(
    name="cnnkit",
    help="Image operations over any convolutional ONNX network.",
    epilog="Environment: CNNKIT_HOME, CNNKIT_MIRROR, CNNKIT_OFFLINE, CNNKIT_DISABLE, CNNKIT_STRICT. "
    "--debug anywhere shows tracebacks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(
    typer.Typer(cls=OperationGroup, no_args_is_help=True, help="Run an operation over pictures."), name="run"
)
app.add_typer(
    typer.Typer(cls=SweepGroup, no_args_is_help=True, help="Run an operation over a grid of options."),
    name="sweep",
)


def _version(wanted: bool) -> None:
    if wanted:
        import cnnkit

        typer.echo(f"cnnkit {cnnkit.__version__}")
        raise typer.Exit


@app.callback()
def cnnkit(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
@well_mannered
def rerun(
    manifest: Annotated[
        str, typer.Argument(help="the .json that a run wrote beside its outputs", metavar="MANIFEST")
    ],
    output: Annotated[str | None, typer.Option("--output", "-o", help="another file or folder/")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite files that cnnkit did not write")] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda, in place of the manifest's", envvar="CNNKIT_DEVICE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object")] = False,
) -> None:
    """Repeat the run that a manifest describes."""
    from cnnkit.cli.terminal import Terminal, show
    from cnnkit.host.delivery import rerun

    terminal = Terminal()
    outcome = rerun(manifest, device=device, reporter=terminal, output=output, force=force)
    show(outcome, terminal, json)


@app.command()
@well_mannered
def doctor(json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False) -> None:
    """Examine this installation: versions, devices, plugins, folders, and what is wrong."""
    from cnnkit.cli.terminal import show_diagnosis
    from cnnkit.host.doctor import diagnose

    show_diagnosis(diagnose(), json)


def _add_groups() -> None:
    from cnnkit.cli import check, export, models, plugins

    app.add_typer(export.app, name="export")
    app.add_typer(check.app, name="check")
    app.add_typer(models.app, name="models")
    app.add_typer(plugins.app, name="plugins")


_add_groups()


def main() -> None:
    """The console script `cnnkit`."""
    app(args=[argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="cnnkit")
