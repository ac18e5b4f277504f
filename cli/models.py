"""`cnnkit models`: the networks that are known by name, and what is in a network."""

from typing import Annotated, Literal

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.operations import complete_model

app = typer.Typer(
    no_args_is_help=True,
    help="Networks: list, show, layers, path, pull, import, export, verify, rm.",
)

Network = Annotated[
    str,
    typer.Argument(help="a known network or an .onnx file", autocompletion=complete_model, metavar="NETWORK"),
]
Weights = Annotated[
    str | None,
    typer.Option(help="make the network from a file of weights, or random:SEED", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]
To = Annotated[str | None, typer.Option(help="the last layer that is kept", metavar="LAYER")]
Fold = Annotated[bool, typer.Option("--fold", help="make batch norms part of the layers before them")]
Float16 = Annotated[bool, typer.Option("--float16", help="store kernels as float16: half the size")]


@app.command("list")
@well_mannered
def list_(
    json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="names only")] = False,
) -> None:
    """The networks that are known by name; the size of one that is not pulled is that of its download."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.catalogue import known_networks

    networks = known_networks()
    if json:
        print_json(networks)
    elif quiet:
        for network in networks:
            typer.echo(network["name"])
    else:
        rows = [
            (n["name"], _megabytes(n["bytes"] or n["download"]), n["state"], n["summary"]) for n in networks
        ]
        table(rows, ("name", "size", "state", "what it is"))


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"


@app.command()
@well_mannered
def show(network: Network, weights: Weights = None, json: AsJson = False) -> None:
    """What a network is: input, preprocessing, classes, size, licence, origin."""
    from cnnkit.cli.terminal import print_fields, print_json
    from cnnkit.host.catalogue import describe
    from cnnkit.host.operation import ModelSpec

    description = describe(ModelSpec(network, weights=weights))
    if json:
        print_json(description)
    else:
        outputs = {output["name"]: output["shape"] for output in description["outputs"]}
        known = {name: value for name, value in description.items() if value not in (None, "", [])}
        print_fields({**known, "outputs": outputs})


@app.command()
@well_mannered
def layers(
    network: Network,
    weights: Weights = None,
    input_size: Annotated[
        str | None, typer.Option("--input-size", "--size", help="HEIGHTxWIDTH", metavar="SIZE")
    ] = None,
    layout: Annotated[Literal["nchw", "nhwc"], typer.Option(help="order of the shapes printed")] = "nchw",
    parts: Annotated[bool, typer.Option("--parts", help="the nodes inside of layers too")] = False,
    json: AsJson = False,
) -> None:
    """The layers: index, name, operators, output shape, parameters and multiply-accumulates."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.catalogue import layer_table
    from cnnkit.host.operation import ModelSpec, size_of

    spec = ModelSpec(network, size=size_of(input_size) if input_size else None, weights=weights)
    found = layer_table(spec, layout)
    if json:
        print_json(found)
        return
    rows = []
    for row in found["layers"]:
        if parts:
            rows += [("", f"  {name}", operator, "", "", "") for name, operator in row["inside"]]
        counts = _count(row["parameters"]), _count(row["macs"])
        rows.append((row["index"], row["name"], row["operator"], row["shown"], *counts))
    table(rows, ("index", "layer", "operator", "output", "parameters", "MACs"))
    counts = _count(found["parameters"]), _count(found["macs"])
    total = "{} layers, {} parameters, {} MACs".format(len(found["layers"]), *counts)
    sized = found["height"] and found["width"]
    where = (
        f"at {found['height']}x{found['width']}" if sized else "(say --input-size for a network of any size)"
    )
    if (found["batch"] or 1) > 1:
        where += f", for the {found['batch']} pictures that the network takes at once"
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
def pull(
    network: Annotated[
        str,
        typer.Argument(help="one that `models list` shows", autocompletion=complete_model, metavar="NETWORK"),
    ],
    to: To = None,
    fold: Fold = False,
    float16: Float16 = False,
    file: Annotated[
        str | None, typer.Option("--from", help="the published file, fetched otherwise", metavar="FILE")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="file of class names, likewise", metavar="FILE")] = None,
    stored_as: Annotated[
        str | None, typer.Option("--as", help="store under this name", metavar="NAME")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="fetch again what is there")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no talk on stderr but errors")] = False,
) -> None:
    """Fetch the published weights of a network and store it as one .onnx on this machine.

    CNNKIT_MIRROR names other places to look first, CNNKIT_OFFLINE=1 keeps off the network, HTTPS_PROXY names
    a proxy. An interrupted download goes on where it stopped.
    """
    from cnnkit.cli.terminal import Terminal
    from cnnkit.host import pull

    pull.pull(
        network,
        to=to,
        fold=fold,
        float16=float16,
        file=file,
        labels=labels,
        stored_as=stored_as,
        force=force,
        reporter=Terminal(quiet),
    )


@app.command("import")
@well_mannered
def import_(
    file: Annotated[str, typer.Argument(help="an .onnx file", metavar="FILE")],
    name: Annotated[str, typer.Option(help="what it is to be called", metavar="NAME")],
    preprocess: Annotated[str | None, typer.Option(help="caffe, tf, torch or raw")] = None,
    fit: Annotated[str | None, typer.Option(help="squash, crop or pad")] = None,
    filter: Annotated[str | None, typer.Option(help="resizing filter: bilinear, bicubic, …")] = None,
    labels: Annotated[str | None, typer.Option(help="file of class names", metavar="FILE")] = None,
    input_size: Annotated[
        str | None, typer.Option(help="input size, for a network of any size", metavar="HEIGHTxWIDTH")
    ] = None,
    licence: Annotated[str, typer.Option(help="its licence, to be kept with it")] = "",
    to: To = None,
    fold: Fold = False,
    float16: Float16 = False,
    force: Annotated[bool, typer.Option("--force", help="replace a stored network of that name")] = False,
) -> None:
    """Store a copy of any .onnx under a name, with all that cnnkit has to know of it."""
    from cnnkit.cli.terminal import Terminal
    from cnnkit.host.changes import Changes
    from cnnkit.host.operation import size_of
    from cnnkit.host.pull import import_network

    import_network(
        file,
        name,
        preprocess=preprocess,
        fit=fit,
        filter=filter,
        labels=labels,
        size=size_of(input_size) if input_size else None,
        licence=licence,
        changes=Changes(to, fold, float16),
        force=force,
        reporter=Terminal(),
    )


@app.command()
@well_mannered
def export(
    network: Network,
    path: Annotated[str, typer.Option("--path", "-o", help="the .onnx, - for stdout", metavar="FILE")],
    weights: Weights = None,
    classes: Annotated[int | None, typer.Option(help="with --weights: number of classes", min=1)] = None,
    alpha: Annotated[float | None, typer.Option(help="with --weights: factor on the widths")] = None,
    input_size: Annotated[
        str | None, typer.Option(help="with --weights: input size", metavar="HEIGHTxWIDTH")
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax/--no-softmax", help="with --weights: end with probabilities or logits")
    ] = True,
    to: To = None,
    fold: Fold = False,
    float16: Float16 = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite the file")] = False,
) -> None:
    """Write a network as one ordinary .onnx, with its layer names and all that cnnkit knows of it."""
    from cnnkit.host.changes import Changes
    from cnnkit.host.export import export_network
    from cnnkit.host.operation import ModelSpec, size_of

    shape: dict[str, object] = {
        word: value for word, value in (("classes", classes), ("alpha", alpha)) if value is not None
    }
    if input_size:
        shape["size"] = size_of(input_size)
    if not softmax:
        shape["activation"] = None
    spec = ModelSpec(network, weights=weights)
    written = export_network(spec, path, Changes(to, fold, float16), shape, force)
    if written:
        typer.echo(written)


@app.command()
@well_mannered
def verify(
    networks: Annotated[
        list[str] | None, typer.Argument(help="stored networks; all when none is named", metavar="NETWORK")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check that stored networks are what was stored, and load. Leaves with 1 when one is damaged."""
    from cnnkit.cli.terminal import print_json, table
    from cnnkit.host.store import verify_networks

    found = verify_networks(networks or [])
    if json:
        print_json(found)
    else:
        table(
            [(n["name"], n["problem"] or n["remark"] or "good", n["path"]) for n in found],
            ("name", "verdict", "file"),
        )
    raise typer.Exit(0 if all(network["good"] for network in found) else 1)


@app.command()
@well_mannered
def rm(
    network: Annotated[str, typer.Argument(help="the name of a stored network", metavar="NETWORK")],
) -> None:
    """Remove a stored network from this machine."""
    from cnnkit.host.store import remove_network

    typer.echo(f"removed {remove_network(network)}", err=True)
