"""`cnnkit check`: whether what cnnkit computes is right, with figures."""

from typing import Annotated

import typer

from cnnkit.cli.manners import well_mannered
from cnnkit.cli.models import AsJson, Network, Weights

app = typer.Typer(no_args_is_help=True, help="Check that what cnnkit computes is right.")


@app.callback()
def check() -> None:
    pass


@app.command()
@well_mannered
def gradient(
    network: Network,
    weights: Weights = None,
    layer: Annotated[
        str | None, typer.Option(help="check only these: a name, an index, 3:9, block1*", metavar="LAYERS")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the random directions")] = 0,
    input_size: Annotated[
        str | None, typer.Option(help="input size, for a network of any size", metavar="HEIGHTxWIDTH")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda", envvar="CNNKIT_DEVICE")] = "auto",
    json: AsJson = False,
) -> None:
    """Check every layer's gradient by differences in float64, and the whole network's on this machine.

    Leaves with 0 when it is right and 1 when it is not.
    """
    from cnnkit.cli.terminal import Terminal, print_json, table
    from cnnkit.host.gradient_check import COLUMNS, check_gradient
    from cnnkit.host.operation import ModelSpec, size_of

    terminal = Terminal()
    spec = ModelSpec(network, size=size_of(input_size) if input_size else None, weights=weights)
    report = check_gradient(spec, layer, seed, device, reporter=terminal)
    if json:
        print_json(report.to_json())
    else:
        table(report.rows(), COLUMNS)
        terminal.write(report.sentence)
    raise typer.Exit(0 if report.good else 1)
