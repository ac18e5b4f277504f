"""Apply: a network that makes pictures out of pictures, run over pictures of any size."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Annotated, Literal

import numpy as np

from cnnkit import (
    Context,
    Image,
    Model,
    Operation,
    Option,
    Preprocessing,
    Result,
    UsageError,
    available_memory,
    hookimpl,
    measure,
)
from cnnkit.plugins.picture_networks import PictureNetwork, picture_network
from cnnkit.plugins.tiling import Array, Axis, Piece, assembled

TILE = 1024
"""Pixels: where they change nothing, larger tiles save little work and take more memory."""
HALOS = 16
"""With this many halos to a tile, what is thrown away is a quarter of the work."""
OVERHEAD = 3
"""How many times the memory of the activations that are counted was seen to be taken."""
RAMP = 8
"""The part of a tile, as 1/RAMP, over which it fades into the next where tiles do change something."""
_LIGHTNESS = Preprocessing(channels="grey", layout="nhwc")


@dataclass(frozen=True)
class ApplyOptions:
    """Run a network that makes pictures out of pictures: feed-forward styles, super-resolution, denoising."""

    tile: Annotated[
        int | None,
        Option("largest side of tiles in pixels, halo included (default: no tiles if memory allows)", min=1),
    ] = None
    halo: Annotated[
        int | None,
        Option("pixels around each tile that are thrown away (default: as far as the network looks)", min=0),
    ] = None
    input_range: Annotated[
        Literal["auto", "0..1", "0..255", "-1..1"], Option("black and white as the network takes them")
    ] = "auto"
    output_range: Annotated[
        Literal["auto", "same", "0..1", "0..255", "-1..1"],
        Option("black and white as the network makes them; same: as it takes them"),
    ] = "auto"


@dataclass(frozen=True)
class Plan:
    """How a picture is cut: `halo` pixels, down and across, are thrown away where it was.

    `seamless` says that the tiles make what the whole picture would.
    """

    halo: tuple[int, int]
    seamless: bool
    rows: list[Piece]
    columns: list[Piece]

    @property
    def tiles(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) of a tile in pixels."""
        return len(self.rows[0].pixels), len(self.columns[0].pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.rows[-1].place.stop, self.columns[-1].place.stop


def planned(network: PictureNetwork, picture: Image, options: ApplyOptions, context: Context) -> Plan:
    """How to cut a picture. Raises UsageError where the options leave nothing of a tile."""
    looks, fixed = network.reach, network.model.graph.size
    if options.tile and None not in fixed:
        raise UsageError(
            f"--tile {options.tile} is not possible: the network '{network.model.name}' takes "
            f"{fixed[0]}x{fixed[1]} pixels and no others"
        )
    rows, columns = Axis.both(picture.size, looks, fixed)
    halo = looks.halo if options.halo is None else (options.halo, options.halo)
    seamless = not looks.whole and halo[0] >= looks.halo[0] and halo[1] >= looks.halo[1]
    side = options.tile or _side(network, (rows.whole, columns.whole), context)
    ramp = 0 if seamless else side // RAMP
    return Plan(halo, seamless, rows.pieces(side, halo[0], ramp), columns.pieces(side, halo[1], ramp))


def _side(network: PictureNetwork, whole: tuple[int, int], context: Context) -> int:
    """Of the tiles that fit into the memory that there is, or of the whole picture if that does."""
    graph = network.model.graph.extract([network.tensor])
    if None not in graph.size:
        return max(whole)
    free = context.settings.max_memory or available_memory() // 2
    counted = measure(graph, *(fixed or side for fixed, side in zip(graph.size, whole, strict=True)))
    share = free / max(1, OVERHEAD * counted.bytes_per_item)
    if share >= 1:
        return max(whole)
    fitting = int(sqrt(whole[0] * whole[1] * share))
    return fitting if network.reach.whole else min(fitting, max(TILE, HALOS * max(network.reach.halo)))


def apply(picture: Image, model: Model, options: ApplyOptions, context: Context) -> Result:
    """See `ApplyOptions`."""
    network = picture_network(model, options.input_range, options.output_range, context)
    for sentence in network.assumptions:
        context.say(f"{model.name}: {sentence}")
    plan = planned(network, picture, options, context)
    if plan.tiles > 1 and not plan.seamless:
        context.say(f"{picture.name}: {_warning(network, plan)}")
    made = _painted(network, picture, plan, context)
    height, width = made.size
    data = {
        "size": [height, width],
        "tiles": plan.tiles,
        "tile": list(plan.tile),
        "halo": list(plan.halo),
        "seamless": plan.tiles == 1 or plan.seamless,
        "looks_at_the_whole": dict(network.reach.whole),
        "input": network.taken.to_json(),
        "output": network.made.to_json(),
    }
    where = "at once" if plan.tiles == 1 else f"in {plan.tiles} tiles of {plan.tile[0]}x{plan.tile[1]}"
    text = f"{picture.name}: {picture.height}x{picture.width} became {height}x{width}, {where}"
    return Result({"": made}, data=data, text=text)


def _warning(network: PictureNetwork, plan: Plan) -> str:
    """One sentence on what tiles change, and why."""
    if not network.reach.whole:
        wanted = max(network.reach.halo)
        reason = f"the network looks {wanted} pixels far and the halo is {max(plan.halo)}"
    else:
        (name, what), *others = network.reach.whole.items()
        more = f" (and {len(others)} more like it)" if others else ""
        reason = f"the layer '{name}'{more} {what}"
    advice = "" if None not in network.model.graph.size else "; larger tiles come nearer"
    return (
        f"{plan.tiles} tiles do not make what the whole picture would, as {reason}; they are blended{advice}"
    )


def _painted(network: PictureNetwork, picture: Image, plan: Plan, context: Context) -> Image:
    """What the network makes of the picture, in its profile and with its alpha if it makes none itself."""
    enlarged = picture if picture.size == plan.size else picture.resized(*plan.size, "bicubic")
    made = np.empty((*plan.size, max(3, network.reach.channels)), np.uint8)
    for top, strip in strips(network, picture, plan, context):
        lines = slice(top, top + len(strip))
        painted = network.painted(strip)
        if network.sees_lightness:
            colours = enlarged.pixels[lines]
            painted += colours - _LIGHTNESS.to_network(colours)
        made[lines] = np.rint(np.clip(painted, 0, 255))
    alpha = made[..., 3] if made.shape[-1] == 4 else enlarged.alpha
    return replace(enlarged.repainted(np.ascontiguousarray(made[..., :3])), alpha=alpha)


def strips(
    network: PictureNetwork, picture: Image, plan: Plan, context: Context
) -> Iterator[tuple[int, Array]]:
    """The network's numbers for the whole picture: (first line, strip (lines, width, channels)), downwards.

    No more of them are in memory than a row of tiles makes.
    """
    outputs = context.session(network.model).map(_tiles(network, picture, plan), [network.tensor])
    if plan.tiles > 1:
        outputs = context.progress(outputs, plan.tiles, f"{picture.name}: tiles")
    channels = network.reach.axis - 1
    results = (np.moveaxis(output[network.tensor], channels, -1) for output in outputs)
    yield from assembled(plan.rows, plan.columns, results)


def _tiles(network: PictureNetwork, picture: Image, plan: Plan) -> Iterator[Array]:
    """What the network is fed, tile by tile."""
    pixels = picture.flattened().pixels
    for row in plan.rows:
        for column in plan.columns:
            yield network.taken.to_network(pixels[np.ix_(row.pixels, column.pixels)])


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("apply", apply, ApplyOptions, takes="picture", needs="network")]
