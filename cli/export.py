"""`cnnkit export`: gradients as ONNX files for other programs."""

from typing import Annotated

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.models import Network, Weights

app = typer.Typer(no_args_is_help=True, help="Write what cnnkit computes as ONNX files for other programs.")


@app.callback()
def export() -> None:
    pass


@app.command()
@well_mannered
def gradient(
    network: Network,
    path: Annotated[str, typer.Option("--path", "-o", help="the .onnx, - for stdout", metavar="FILE")],
    output: Annotated[
        str,
        typer.Option(
            help="what to differentiate: logits:281, probabilities:tabby, LAYER:CHANNEL or LAYER; "
            "logits alone makes the class an input",
        ),
    ] = "logits",
    wrt: Annotated[
        list[str] | None, typer.Option(help="with respect to: input, a layer, a weight; may be repeated")
    ] = None,
    weights: Weights = None,
    input_size: Annotated[
        str | None,
        typer.Option("--input-size", "--size", help="for a network of any size", metavar="HEIGHTxWIDTH"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the file")] = False,
) -> None:
    """Write the gradient of a network as one ordinary .onnx: picture in, score and gradient out."""
    from cnnkit.host.export import export_gradient
    from cnnkit.host.operation import ModelSpec, size_of

    spec = ModelSpec(network, size=size_of(input_size) if input_size else None, weights=weights)
    written = export_gradient(spec, output, wrt or ["input"], path, force)
    if written:
        typer.echo(written)
