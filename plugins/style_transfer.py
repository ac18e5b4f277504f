"""Style transfer: a picture repainted so that its features stay and their correlations become another's.

Gatys, Ecker and Bethge 2015 (arXiv:1508.06576), and the programs that came of it. The formulas are in
`synthesis/recipe.py`, the programs in `synthesis/presets.py`; `synthesis/loop.py` moves the picture.
"""

from dataclasses import asdict, replace
from typing import Any

from cnnkit import (
    Context,
    Image,
    Model,
    Operation,
    Reason,
    Result,
    UsageError,
    drawing,
    hookimpl,
)
from cnnkit.plugins.synthesis.choosing import LAYERS, chosen, or_default, shared
from cnnkit.plugins.synthesis.coefficients import explained, planes_of_vgg
from cnnkit.plugins.synthesis.colours import ContentColours
from cnnkit.plugins.synthesis.deviations import deviations
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.options import StyleTransferOptions, recipe_of
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.probe import probe
from cnnkit.plugins.synthesis.regions import Regions, checked
from cnnkit.plugins.synthesis.run import Run
from cnnkit.plugins.synthesis.stages import sized, stages
from cnnkit.plugins.synthesis.strip import Strip
from cnnkit.plugins.wording import duration


def style_transfer(picture: Image, model: Model, options: StyleTransferOptions, context: Context) -> Result:
    """See `StyleTransferOptions`.

    Pictures: "" the one of the lowest loss, or the mean of the last ones where the recipe averages; "last"
    where it is another; "step0100" and so on; "features-content", "-style" and "-result". Files: losses.csv,
    losses.png and run.gif. `data` has the recipe, the coefficients in the unit of `recipe.py`, and how near
    the result comes. Of a strip "" is the strip, and each blend has its own: "blend050", "blend050.last",
    blend050.losses.csv.
    """
    if options.explain:
        return _explanation(picture, options)
    task = easel(picture, model, options, context)
    if options.dry_run:
        return _forecast(task, options)
    if options.strip:
        return _strip(task, options, options.strip)
    run = Run(task, options.seconds, options.snapshots, options.animation)
    if state := context.restore():
        run.take_up(state)
    try:
        run.go(context.save)
        return result(task, run, options)
    except KeyboardInterrupt:
        if run.record.rows:
            context.save(run.state())
            context.emit(Result(run.pictures()))  # at once, as all else takes seconds
            context.emit(result(task, run, options))
        raise


def easel(picture: Image, model: Model, options: StyleTransferOptions, context: Context) -> Easel:
    """Everything that is ready before the first iteration. Raises UsageError for what does not fit."""
    if not options.style:
        raise UsageError("--style must be given: a picture whose style is taken.")
    if options.strip and len(options.style) < 2:
        raise UsageError("--strip goes from one style to the next: give --style twice or more.")
    if options.strip and options.style_weights:
        raise UsageError("--strip goes through all shares: leave out --style-weights.")
    shares = options.style_weights or (1.0,) * len(options.style)
    if len(shares) != len(options.style):
        raise UsageError(
            f"--style-weights has {len(shares)} numbers for {len(options.style)} styles: give one for each."
        )
    given = [name for name in LAYERS if getattr(options, name) is not None]
    recipe, said = chosen(options.preset, recipe_of(options), model, given)
    for sentence in said:
        context.say(f"{model.name}: {sentence}")
    colours = content_colours(picture, options)
    content, styles = colours.painted(options.style) if colours else (picture, options.style)
    task = Easel(
        content,
        styles,
        shares,
        options.start_picture,
        model,
        eye(model, recipe),
        recipe,
        context,
        colours,
        regions_of(picture, options),
    )
    task.planes(task.size)
    return task


def regions_of(picture: Image, options: StyleTransferOptions) -> Regions:
    """Raises UsageError for masks that do not fit."""
    if options.mask and options.strip:
        raise UsageError("--strip makes one style of two, and --mask keeps them apart: leave one out.")
    if options.mask_mode == "inside" and not (options.mask or options.style_mask):
        raise UsageError(
            "--mask-mode inside says how, but there is no mask: say --mask too, or leave it out."
        )
    painted = checked(options.mask, [picture] * len(options.style), "--mask")
    return Regions(painted, checked(options.style_mask, options.style, "--style-mask"), options.mask_mode)


def content_colours(picture: Image, options: StyleTransferOptions) -> ContentColours | None:
    """Raises UsageError where it is said when, but not what."""
    if options.colours:
        return ContentColours(picture, options.colours, options.colours_when or "before")
    if options.colours_when:
        raise UsageError("--colours-when says when, but not what: say --colours too, or leave it out.")
    return None


def _strip(task: Easel, options: StyleTransferOptions, count: int) -> Result:
    seconds = None if options.seconds is None else options.seconds / count

    def run_of(name: str, blend: Easel) -> Run:
        return Run(blend, seconds, options.snapshots, options.animation, name)

    return Strip(task, count, run_of, lambda blend, run: result(blend, run, options)).go()


def result(task: Easel, run: Run, options: StyleTransferOptions) -> Result:
    """Of a run that has made a move at least."""
    made = Result(run.pictures())
    made.files = run.files(made.picture)
    if options.features:
        made.pictures |= features(task, made.picture)
    made.data = _data(task, run, options)
    made.text = told(task, made.data, run.record.rows[-1].seconds)
    return made


def features(task: Easel, painted: Image) -> dict[str, Image]:
    """Sheets of what the watched layers make of the content, of the first style and of the result."""
    layers = list(dict.fromkeys((*task.objective.style, *task.objective.content)))
    style = task.styles[0]
    pictures = {
        "content": task.content.resized(*task.size),
        "style": style.resized(*task.style_size(style, task.size)),
        "result": painted.resized(*task.size),
    }
    return {
        f"features-{part}": task.context.run("activations", picture, task.eye, layers=layers).picture
        for part, picture in pictures.items()
    }


def _data(task: Easel, run: Run, options: StyleTransferOptions) -> dict[str, Any]:
    row, best, main = run.record.rows[-1], run.synthesis.best, run.synthesis.best_x
    size = task.size_of(main)
    return {
        "preset": options.preset,
        "recipe": asdict(task.recipe),
        "sizes": [list(stage.size) for stage in run.synthesis.stages],
        "coefficients": asdict(task.coefficients(size)),
        "layers": {layer: str(plane) for layer, plane in task.planes(size).items()},
        "losses": {**row.weighted, "total": row.total},
        "best": {"total": best.total, "iteration": best.number} if best else None,
        **deviations(task, main),
        "stopped": run.synthesis.reason or str(Reason.INTERRUPTED),
        "iterations": row.iteration,
    }


# What is said


def told(task: Easel, data: dict[str, Any], seconds: float) -> str:
    """The end of a run in a few lines."""
    styles = " and ".join(style.name for style in task.styles)
    height, width = data["sizes"][-1]
    lines = [
        f"{task.content.name} in the style of {styles}, {width}x{height}: {data['iterations']} iterations in "
        f"{duration(seconds)}; {data['stopped']}"
    ]
    for layer, error in data["gram_error"].items():
        each = [f"{region['gram_error'][layer]:.1%}" for region in data.get("regions", ())]
        off = f"matrices in the regions off by {', '.join(each)}" if each else f"matrix off by {error:.1%}"
        lines.append(f"  style {layer}: loss {_loss(data, 'style', layer)}, Gram {off}")
    for layer, error in data["content_error"].items():
        lines.append(f"  content {layer}: loss {_loss(data, 'content', layer)}, features off by {error:.1%}")
    return "\n".join([*lines, f"  total: {drawing.compact(data['losses']['total'])}"])


def _loss(data: dict[str, Any], part: str, layer: str) -> str:
    return drawing.compact(data["losses"][f"{part} {layer}"])


def _forecast(task: Easel, options: StyleTransferOptions) -> Result:
    cost = probe(task, options.seconds)
    height, width = cost.size
    count = sum(stage.iterations for stage in stages(task.recipe, task.size))
    blends = f" for each of {options.strip}" if options.strip else ""
    text = [
        f"{task.content.name}: {width}x{height}, {count} iterations, about {duration(cost.total_seconds)}"
        + blends,
        f"  an iteration at the full size: {cost.macs / 1e9:.1f} GMAC, {duration(cost.seconds)}",
        f"  memory: {cost.bytes / 1e9:.2f} GB of {cost.free / 1e9:.2f} GB",
    ]
    if cost.fitting < cost.size:
        text.append(f"  what fits: --size long:{max(cost.fitting)}")
    return Result(data=asdict(cost), text="\n".join(text))


def _explanation(picture: Image, options: StyleTransferOptions) -> Result:
    recipe, other = recipe_of(options), options.explain or options.preset
    for name in LAYERS:
        changes: dict[str, Any] = {
            name: shared(getattr(recipe, name), getattr(PRESETS[options.preset], name))
        }
        recipe = replace(recipe, **changes)
    size = sized(recipe.size, picture.size)
    theirs = (other, PRESETS[other])
    if theirs[1] == recipe:
        return Result(text=explained(options.preset, recipe, planes_of_vgg(size), size))
    layers = {name for name, _ in (*recipe.content_layers, *recipe.style_layers)}
    if unknown := sorted(layers - planes_of_vgg(size).keys()):
        raise UsageError(f"--explain computes with VGG's layers, and '{unknown[0]}' is none of them.")
    return Result(text=explained(options.preset, recipe, planes_of_vgg(size), size, theirs))


def network(options: StyleTransferOptions) -> str | None:
    """The preset's network; for `cnnkit` the default one where it is not on this machine."""
    wanted = PRESETS[options.preset].network
    if options.explain:
        return None
    return or_default(wanted) if options.preset == "cnnkit" else wanted


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [
        Operation(
            "style-transfer", style_transfer, StyleTransferOptions, network=network, larger="vgg19-notop"
        )
    ]
