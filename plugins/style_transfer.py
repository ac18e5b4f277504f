"""Style transfer: a picture repainted so that its features stay and their correlations become another's.

Gatys, Ecker and Bethge 2015 (arXiv:1508.06576), and the programs that came of it. The formulas are in
`synthesis/recipe.py`, the programs in `synthesis/presets.py`; `synthesis/loop.py` moves the picture.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cnnkit import (
    Context,
    Host,
    Image,
    Model,
    ModelError,
    Operation,
    Reason,
    Result,
    UsageError,
    drawing,
    hookimpl,
)
from cnnkit.plugins.synthesis import objective as objectives
from cnnkit.plugins.synthesis.choosing import LAYERS, chosen, shared
from cnnkit.plugins.synthesis.coefficients import explained, planes_of_vgg
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.interrupting import whole
from cnnkit.plugins.synthesis.loop import Array, Moment, Synthesis
from cnnkit.plugins.synthesis.options import StyleTransferOptions, recipe_of
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.probe import probe
from cnnkit.plugins.synthesis.record import Animation, Record, Row
from cnnkit.plugins.synthesis.stages import sized, stages

CHECKPOINT = 30.0
"""Seconds between two checkpoints."""


def style_transfer(picture: Image, model: Model, options: StyleTransferOptions, context: Context) -> Result:
    """See `StyleTransferOptions`.

    Pictures: "" the one of the lowest loss, or the mean of the last ones where the recipe averages; "last"
    where it is another; "step0100" and so on; "features-content", "-style" and "-result". Files: losses.csv,
    losses.png and run.gif. `data` has the recipe, the coefficients in the unit of `recipe.py`, and how near
    the result comes.
    """
    if options.explain:
        return _explanation(picture, options)
    task = easel(picture, model, options, context)
    if options.dry_run:
        return _forecast(task, options, context)
    run = Run(task, options, context)
    try:
        run.paint()
    except KeyboardInterrupt:
        run.keep()
        raise
    return run.result()


def easel(picture: Image, model: Model, options: StyleTransferOptions, context: Context) -> Easel:
    """Everything that is ready before the first iteration. Raises UsageError for what does not fit."""
    if not options.style:
        raise UsageError("--style must be given: a picture whose style is taken.")
    shares = options.style_weights or (1.0,) * len(options.style)
    if len(shares) != len(options.style):
        raise UsageError(
            f"--style-weights has {len(shares)} numbers for {len(options.style)} styles: give one for each."
        )
    given = [name for name in LAYERS if getattr(options, name) is not None]
    recipe, said = chosen(options.preset, recipe_of(options), model, given)
    if options.preset == "cnnkit" and model.name == "default":
        context.say("the default network paints; vgg19-notop paints better: cnnkit models pull vgg19-notop")
    for sentence in said:
        context.say(f"{model.name}: {sentence}")
    task = Easel(
        picture, options.style, shares, options.start_picture, model, eye(model, recipe), recipe, context
    )
    task.planes(task.size)
    return task


class Run:
    """One picture being painted."""

    def __init__(self, task: Easel, options: StyleTransferOptions, context: Context) -> None:
        self.task, self.options, self.context = task, options, context
        self.record = Record()
        self.animation = Animation() if options.animation else None
        self.synthesis = Synthesis(
            task.eye,
            task.objective,
            task.feeds,
            task.recipe,
            context,
            task.start,
            task.size,
            options.seconds,
        )
        self._saved = time.monotonic()

    def paint(self) -> None:
        """To the end, with all that is asked for on the way."""
        if state := self.context.restore():
            self.synthesis.take_up(state)
            if self.animation:
                self.animation.take_up(state)
            self.record.take_up(state)  # the last, as nothing is kept of a run without rows
        made = self.record.rows[-1].iteration if self.record.rows else 0
        total = sum(stage.iterations for stage in self.synthesis.stages) - made
        for _ in self.context.progress(whole(self._recorded()), total, self._label):
            if time.monotonic() - self._saved > CHECKPOINT:
                self._save()

    def keep(self) -> None:
        """What there is after an interruption, and what is needed to go on."""
        if self.record.rows:
            self._save()
            self.context.emit(self.result())

    def _recorded(self) -> Iterator[Moment]:
        for moment in self.synthesis.moments():
            losses = dict(moment.losses)
            total = losses.pop("total")
            weights = self._weights(moment.stage.size)
            self.record.rows.append(
                Row(
                    moment.number,
                    moment.stage.number,
                    moment.stage.size,
                    losses,
                    weights,
                    total,
                    moment.step,
                    moment.seconds,
                )
            )
            self._shown(moment)
            yield moment

    def _label(self) -> str:
        rows = self.record.rows
        name = self.task.content.name
        return f"{name}: loss {drawing.compact(rows[-1].total)}" if rows else name

    def _shown(self, moment: Moment) -> None:
        every = self.options.snapshots
        before = self.record.rows[-2].iteration if len(self.record.rows) > 1 else 0
        if every and moment.number // every > before // every:  # an iteration can have several evaluations
            step = self.task.picture(moment.x())
            self.context.emit(Result({f"step{moment.number:04d}": step}))
        if self.animation and self.animation.wants_next():
            self.animation.add(self.task.picture(moment.x()).pixels)

    def _save(self) -> None:
        state = {**self.synthesis.state(), **self.record.state()}
        if self.animation:
            state |= self.animation.state()
        self.context.save(state)
        self._saved = time.monotonic()

    def _weights(self, size: tuple[int, int]) -> dict[str, float]:
        """Of each part of the loss, for x of a size."""
        found = self.task.coefficients(size)
        weights = {f"content {layer}": weight for layer, weight in found.content.items()}
        weights |= {f"style {layer}": weight for layer, weight in found.style.items()}
        return weights | {"variation": found.variation}

    def result(self) -> Result:
        task, synthesis = self.task, self.synthesis
        last = synthesis.x
        main = last if task.recipe.average or synthesis.best is None else synthesis.best.x
        result = Result({"": task.picture(main)})
        if not np.array_equal(main, last):
            result.pictures["last"] = task.picture(last)
        result.files = {"losses.csv": self.record.csv(), "losses.png": self.record.plot()}
        if self.animation and self.options.animation:
            name = f"run.{self.options.animation}"
            result.files[name] = self.animation.encode(result.picture.pixels, self.options.animation)
        if self.options.features:
            result.pictures |= self._features(result.picture)
        result.data = self._data(main)
        result.text = told(task, result.data, self.record.rows[-1].seconds)
        return result

    def _data(self, main: Array) -> dict[str, Any]:
        task, row = self.task, self.record.rows[-1]
        size = task.size_of(main)
        off = deviations(task, main)
        return {
            "preset": self.options.preset,
            "recipe": asdict(task.recipe),
            "sizes": [list(stage.size) for stage in self.synthesis.stages],
            "coefficients": asdict(task.coefficients(size)),
            "layers": {layer: str(plane) for layer, plane in task.planes(size).items()},
            "losses": {**row.weighted, "total": row.total},
            "best": {"total": best.total, "iteration": best.number}
            if (best := self.synthesis.best)
            else None,
            **off,
            "stopped": self.synthesis.reason or str(Reason.INTERRUPTED),
            "iterations": row.iteration,
        }

    def _features(self, painted: Image) -> dict[str, Image]:
        """Sheets of what the watched layers make of the content, of the first style and of the result."""
        task = self.task
        layers = list(dict.fromkeys((*task.objective.style, *task.objective.content)))
        style = task.styles[0]
        pictures = {
            "content": task.content.resized(*task.size),
            "style": style.resized(*task.style_size(style, task.size)),
            "result": painted.resized(*task.size),
        }
        return {
            f"features-{part}": self.context.run("activations", picture, task.eye, layers=layers).picture
            for part, picture in pictures.items()
        }


def deviations(task: Easel, x: Array) -> dict[str, dict[str, float]]:
    """By layer: "gram_error" Σ(G - A)²/ΣA², of several styles the mean; "content_error" Σ(F - P)²/ΣP²."""
    size, watched = task.size_of(x), task.objective
    feeds = task.feeds(size)
    layers = [*watched.style, *watched.content]
    found = objectives.features(task.eye, layers, x, task.context)

    def relative(value: Array, target: Array) -> float:
        return float(
            np.square(value - target, dtype=np.float64).sum() / np.square(target, dtype=np.float64).sum()
        )

    grams = {layer: objectives.gram(found[layer]) for layer in watched.style}
    return {
        "gram_error": {
            layer: float(
                np.mean(
                    [relative(gram, feeds[f"style/{layer}/{number}"]) for number in range(watched.styles)]
                )
            )
            for layer, gram in grams.items()
        },
        "content_error": {
            layer: relative(found[layer], feeds[f"content/{layer}"]) for layer in watched.content
        },
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
        lines.append(f"  style {layer}: loss {_loss(data, 'style', layer)}, Gram matrix off by {error:.1%}")
    for layer, error in data["content_error"].items():
        lines.append(f"  content {layer}: loss {_loss(data, 'content', layer)}, features off by {error:.1%}")
    return "\n".join([*lines, f"  total: {drawing.compact(data['losses']['total'])}"])


def _loss(data: dict[str, Any], part: str, layer: str) -> str:
    return drawing.compact(data["losses"][f"{part} {layer}"])


def duration(seconds: float) -> str:
    """ "3 h 5 min", "2 min 10 s" or "8 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if rest else f"{seconds:.1f} s"


def _forecast(task: Easel, options: StyleTransferOptions, context: Context) -> Result:
    cost = probe(
        task.eye, task.objective, task.feeds, task.recipe, context, task.start, task.size, options.seconds
    )
    height, width = cost.size
    count = sum(stage.iterations for stage in stages(task.recipe, task.size))
    text = [
        f"{task.content.name}: {width}x{height}, {count} iterations, about {duration(cost.total_seconds)}",
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


def network(options: StyleTransferOptions) -> str:
    """The preset's network; for `cnnkit` the default one where it is not on this machine."""
    wanted = PRESETS[options.preset].network
    if options.explain:
        return "default"
    if options.preset == "cnnkit":
        try:
            Host().locate(wanted)
        except ModelError:
            return "default"
    return wanted


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("style-transfer", style_transfer, StyleTransferOptions, network=network)]
