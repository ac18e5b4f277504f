"""What a person may set of a style transfer, and the recipe that comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from cnnkit import Image, Option, UsageError
from cnnkit.plugins.synthesis.colours import Colours, When
from cnnkit.plugins.synthesis.parsing import (
    SETTABLE,
    parse_layers,
    parse_noise,
    parse_numbers,
    parse_offsets,
    parse_preset,
    parse_settings,
    parse_size,
)
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import OptimizerName, Recipe, Weighted
from cnnkit.plugins.synthesis.record import AnimationFormat
from cnnkit.plugins.synthesis.regions import MaskMode

Tap = Annotated[Literal["after", "before"] | None, Option("watch a layer after or before its activation")]
Pooling = Annotated[Literal["max", "average"] | None, Option("of the network")]
Padding = Annotated[
    Literal["zero", "replicate", "reflect"] | None,
    Option("of the first convolution: no zeros, no dark borders"),
]
VariationWeight = Annotated[float | None, Option("weight of the total variation: more is smoother", min=0)]
Mover = Annotated[OptimizerName | None, Option("what moves the picture")]
Rate = Annotated[
    float | None,
    Option("learning rate; of lbfgs-damped the first step, in tenths of a grey level", min=0),
]
"""Options of every operation that moves a picture."""

NORMAL_NOISE = 64.0
"""The deviation of normal noise where neither the preset nor the user says one; in 0..255."""

RATES = {"lbfgs": 1.0, "adam": 0.02}
"""The learning rates of an optimizer that is not the preset's; Adam's for x in 0..1."""


@dataclass(frozen=True)
class StyleTransferOptions:
    """Paint a picture in the style of another: Gatys' neural style, in all its published variants.

    A preset is a whole published program, and every option that is left out is the preset's.
    """

    style: Annotated[
        tuple[Image, ...], Option("a picture whose style is taken; several times for several")
    ] = ()
    preset: Annotated[
        str,
        Option(f"the program: {', '.join(PRESETS)}", parse=parse_preset, metavar="NAME"),
    ] = "cnnkit"
    style_weights: Annotated[
        tuple[float, ...] | None,
        Option("shares of several styles: 1,2", parse=parse_numbers, metavar="NUMBER,..."),
    ] = None
    styles: Annotated[
        Literal["targets", "losses"] | None,
        Option("of several styles, average the targets (one blend) or the losses (a compromise)"),
    ] = None
    mask: Annotated[
        tuple[Image, ...],
        Option("where a style is painted: white; one for each --style, in order"),
    ] = ()
    style_mask: Annotated[
        tuple[Image, ...], Option("from where in its picture a style is taken: white; one for each")
    ] = ()
    mask_mode: Annotated[
        MaskMode,
        Option("masks resized to each layer, or only places that see nothing but their inside"),
    ] = "simple"
    strip: Annotated[
        int | None,
        Option("so many pictures side by side, from the first style to the last", min=2, max=101),
    ] = None

    content_layers: Annotated[
        Weighted | None,
        Option(
            "layers of the content, with weights",
            parse=parse_layers,
            metavar="LAYER[:WEIGHT],...",
            completes="layers",
        ),
    ] = None
    style_layers: Annotated[
        Weighted | None,
        Option(
            "layers of the style, with weights",
            parse=parse_layers,
            metavar="LAYER[:WEIGHT],...",
            completes="layers",
        ),
    ] = None
    content_weight: Annotated[
        float | None, Option("weight of the content, as the preset's program counts", min=0)
    ] = None
    style_weight: Annotated[
        float | None, Option("weight of the style, as the preset's program counts", min=0)
    ] = None
    variation_weight: VariationWeight = None
    normalised: Annotated[
        bool | None,
        Option("divide each layer by its mean on the content: weights mean the same in any network"),
    ] = None
    tap: Tap = None
    pooling: Pooling = None
    padding: Padding = None

    size: Annotated[
        str | None,
        Option(
            "long:512, short:512, height:400, area:512, exact 480x640, or 512: the longer side",
            parse=parse_size,
        ),
    ] = None
    style_scale: Annotated[
        float | None,
        Option("size of the style, as a multiple of the content's: larger is larger strokes", min=0.01),
    ] = None
    style_fit: Annotated[
        Literal["own", "stretched"] | None,
        Option("the style keeps its aspect, or is stretched to the content's"),
    ] = None
    pyramid: Annotated[
        int | None,
        Option("begin with a longer side of at least so many pixels and grow by √2; 0: one size", min=0),
    ] = None
    original_size: Annotated[bool | None, Option("resize the result to the size of the content picture")] = (
        None
    )

    start: Annotated[
        Literal["content", "noise", "style", "file"] | None, Option("what the picture is at first")
    ] = None
    start_picture: Annotated[Image | None, Option("the picture of --start file")] = None
    mix: Annotated[float | None, Option("share of noise in the start", min=0, max=1)] = None
    noise: Annotated[
        tuple[str, float | None] | None,
        Option("uniform[:WIDTH] or normal[:DEVIATION], in 0..255", parse=parse_noise, metavar="KIND[:SCALE]"),
    ] = None

    optimizer: Mover = None
    rate: Rate = None
    iterations: Annotated[
        int | None,
        Option("at each size; the first size of a pyramid has more, in the preset's proportion", min=1),
    ] = None
    seconds: Annotated[float | None, Option("stop after this time", min=0)] = None
    clamp: Annotated[
        Literal["never", "step", "evaluation"] | None,
        Option("keep the pixels in 0..255: after steps, or always"),
    ] = None
    average: Annotated[
        float | None,
        Option(
            "show a running mean that keeps this share at each step, such as 0.98; 0: the last",
            min=0,
            max=0.9999,
        ),
    ] = None
    set: Annotated[
        dict[str, Any] | None,
        Option(
            f"any other part of the recipe, such as memory=20,filter=lanczos: {', '.join(SETTABLE)}",
            parse=parse_settings,
            metavar="NAME=VALUE,...",
        ),
    ] = None

    offsets: Annotated[
        tuple[float, ...] | None,
        Option(
            "added to red, green and blue of what is shown: -27,-20,20; or means:B,G,R in place of Caffe's",
            parse=parse_offsets,
            metavar="R,G,B",
        ),
    ] = None
    colours: Annotated[
        Colours | None, Option("keep the content's colours: its chroma, their moments, or their histograms")
    ] = None
    colours_when: Annotated[
        When | None, Option("give them to the styles before (the default), or to the result after")
    ] = None
    snapshots: Annotated[int | None, Option("also save the picture every so many iterations", min=1)] = None
    animation: Annotated[AnimationFormat | None, Option("also save the run as an animation")] = None
    features: Annotated[bool, Option("also save the feature maps of the chosen layers as a sheet")] = False
    explain: Annotated[
        str | None,
        Option(
            "paint nothing; print the coefficients in one unit, and the difference to this preset",
            parse=parse_preset,
            metavar="NAME",
        ),
    ] = None
    dry_run: Annotated[bool, Option("paint nothing; say what it would cost, and a size that fits")] = False


DIRECT = (
    "styles content_layers style_layers content_weight style_weight variation_weight normalised tap pooling "
    "padding size style_scale style_fit pyramid original_size start mix optimizer rate clamp average"
).split()
"""The options that are a field of `Recipe` each."""


def recipe_of(options: StyleTransferOptions) -> Recipe:
    """The preset with what the user says otherwise. Raises UsageError for what does not go together."""
    preset = PRESETS[options.preset]
    given = {name: getattr(options, name) for name in DIRECT}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes |= options.set or {}
    if options.offsets is not None:
        changes["offsets"] = options.offsets
    if options.start_picture is not None:
        if options.start not in (None, "file"):
            raise UsageError(f"--start {options.start} has no use for --start-picture: leave one out.")
        changes["start"] = "file"
    elif options.start == "file":
        raise UsageError("--start file needs the picture: --start-picture PICTURE.")
    if options.mask:
        if options.styles == "targets":
            raise UsageError(
                "--styles targets makes one style of all, and --mask keeps them apart: leave one out."
            )
        changes["styles"] = "losses"
    if options.noise is not None:
        changes |= _noise(preset, *options.noise)
    changes |= rate_for(options.preset, preset, changes)
    if options.iterations is not None:
        changes["iterations"] = options.iterations
        first = round(options.iterations * preset.pyramid_iterations / preset.iterations)
        changes.setdefault("pyramid_iterations", first)
    return replace(preset, **changes)


def _noise(preset: Recipe, kind: str, scale: float | None) -> dict[str, Any]:
    if scale is None:
        scale = (
            preset.noise_scale if kind == preset.noise else {"uniform": 255.0, "normal": NORMAL_NOISE}[kind]
        )
    return {"noise": kind, "noise_scale": scale}


def rate_for(name: str, preset: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate of an optimizer that is not of the preset's kind, where `changes` have none.

    Raises UsageError where there is none, and for one that means nothing.
    """
    optimizer = changes.get("optimizer", preset.optimizer)
    if "rate" in changes and optimizer == "lbfgs-scipy":
        raise UsageError("--rate means nothing to lbfgs-scipy, which finds its own steps: leave it out.")
    kind = optimizer.partition("-")[0]
    if "rate" in changes or kind == preset.optimizer.partition("-")[0]:
        return {}
    if kind not in RATES:
        raise UsageError(f"the preset '{name}' has no learning rate for {optimizer}: say --rate.")
    scale = 255.0 if kind == "adam" and changes.get("unit", preset.unit) != "0..1" else 1.0
    return {"rate": RATES[kind] * scale, "decay": 1.0}
