"""`cnnkit models`: the networks that are known by name, and what is in a network."""

from typing import Annotated, Literal

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.operations import complete_model

app = typer.Typer(no_args_is_help=True, help="Networks: list, show, layers, path, rm.")

Network = Annotated[
    str,
    typer.Argument(help="a known network or an .onnx file", autocompletion=complete_model, metavar="NETWORK"),
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]


@app.command("list")
@well_mannered
def list_(
    json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="names only")] = False,
) -> None:
    """The networks that are known by name."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.catalogue import known_networks

    networks = known_networks()
    if json:
        print_json(networks)
    elif quiet:
        for network in networks:
            typer.echo(network["name"])
    else:
        rows = [(n["name"], f"{n['bytes'] / 1e6:.1f} MB", n["origin"], n["summary"]) for n in networks]
        table(rows, ("name", "size", "from", "what it is"))


@app.command()
@well_mannered
def show(network: Network, json: AsJson = False) -> None:
    """What a network is: input, preprocessing, classes, size, licence."""
    from cnnkit.cli.terminal import print_fields, print_json
    from cnnkit.host.catalogue import describe

    description = describe(network)
    print_json(description) if json else print_fields(description)


@app.command()
@well_mannered
def layers(
    network: Network,
    size: Annotated[str | None, typer.Option(help="input size, HEIGHTxWIDTH", metavar="SIZE")] = None,
    layout: Annotated[Literal["nchw", "nhwc"], typer.Option(help="order of the shapes printed")] = "nchw",
    json: AsJson = False,
) -> None:
    """The layers: index, name, operator, output shape, parameters and multiply-accumulates."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.catalogue import layer_table
    from cnnkit.host.operation import size_of

    found = layer_table(network, size_of(size) if size else None, layout)
    if json:
        print_json(found)
        return
    rows = [
        (
            row["index"],
            row["name"],
            row["operator"],
            row["shown"],
            _count(row["parameters"]),
            _count(row["macs"]),
        )
        for row in found["layers"]
    ]
    table(rows, ("index", "layer", "operator", "output", "parameters", "MACs"))
    total = f"{len(rows)} layers, {_count(found['parameters'])} parameters, {_count(found['macs'])} MACs"
    sized = found["height"] and found["width"]
    where = f"at {found['height']}x{found['width']}" if sized else "(say --size for a network of any size)"
    typer.echo(f"{total} {where}", err=True)


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


@app.command()
@well_mannered
def path(network: Network) -> None:
    """Where the file of a network is."""
    from cnnkit.host.host import default_host

    typer.echo(default_host().locate(network))


@app.command()
@well_mannered
def rm(
    network: Annotated[str, typer.Argument(help="the name of a stored network", metavar="NETWORK")],
) -> None:
    """Remove a stored network from this machine."""
    from cnnkit.host.catalogue import remove_network

    typer.echo(f"removed {remove_network(network)}", err=True)
