"""`cnnkit plugins`: what is installed, whether it works, and how to begin one."""

from typing import Annotated

import typer

from cnnkit.cli.manners import well_mannered

app = typer.Typer(no_args_is_help=True, help="Plugins: list, check, new.")


@app.command("list")
@well_mannered
def list_(
    json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="names only")] = False,
) -> None:
    """Every plugin that the entry-point tables promise; imports none."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.host import default_host

    plugins = [
        {
            "group": plugin.group,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": plugin.state,
            "reason": plugin.reason,
        }
        for plugin in default_host().plugins
    ]
    if json:
        print_json(plugins)
    elif quiet:
        for plugin in plugins:
            typer.echo(plugin["name"])
    else:
        columns = ("group", "name", "distribution", "version", "state", "reason")
        table([[plugin[column] for column in columns] for plugin in plugins], columns)


@app.command()
@well_mannered
def check(
    name: Annotated[str, typer.Argument(help="the name of a plugin or of a distribution", metavar="NAME")],
) -> None:
    """Import a plugin, strictly, and say what it brings, how long it takes, and what is wrong with it."""
    from cnnkit.host.check import check_plugins

    reports = check_plugins(name)
    for report in reports:
        typer.echo(report.text)
    raise typer.Exit(0 if all(report.good for report in reports) else 2)


@app.command()
@well_mannered
def new(
    name: Annotated[
        str, typer.Argument(help="its name, such as edges, or MaxUnpool for a gradient rule", metavar="NAME")
    ],
    kind: Annotated[
        str, typer.Option(help="operation, model, gradient-rule or loss", metavar="KIND")
    ] = "operation",
    folder: Annotated[str | None, typer.Option(help="where to write it; default: cnnkit-NAME")] = None,
) -> None:
    """Write a small plugin package with tests, ready to be changed, installed and published."""
    from cnnkit.host.template import write_plugin

    written = write_plugin(name, folder, kind)
    for path in written.files:
        typer.echo(f"wrote {path}", err=True)
    typer.echo(f"Next: pip install -e '{written.folder}[test]' && pytest {written.folder}", err=True)
    if written.unfinished:
        typer.echo(f"What {name}'s gradient is you write; until then its test fails.", err=True)
