"""Visualize: pictures of what channels of a layer, or classes, look for.

Activation maximisation (Erhan et al. 2009) with the choices of Olah, Mordvintsev and Schubert 2017 (Feature
Visualization, doi:10.23915/distill.00007) and the constants of tensorflow/lucid.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Image, Model, Operation, Option, Result, UsageError, drawing, hookimpl
from cnnkit.plugins.explaining import parse_target
from cnnkit.plugins.synthesis.eye import Tap
from cnnkit.plugins.tiles import LARGEST_SHEET, columns_for, even_pick, fitted, tile_size
from cnnkit.plugins.visualisation import subject
from cnnkit.plugins.visualisation.ascent import Ascent
from cnnkit.plugins.visualisation.objective import Aim
from cnnkit.plugins.visualisation.parametrisation import Colours, Numbers, Parametrisation
from cnnkit.plugins.visualisation.subject import Subject, parse_channels
from cnnkit.plugins.visualisation.transforms import TRANSFORMS, Movement

CHECKPOINT = 30.0
"""Seconds between two checkpoints."""
GAP = 6
"""Between the pictures of the sheet, in pixels."""
NAMED = 8
"""So many layers are named where none was asked for."""


@dataclass(frozen=True)
class VisualizeOptions:
    """Draw what channels of a layer, or classes, look for: the picture that excites each most.

    A picture that starts as grey noise is changed step by step so that the channel answers more, and is moved
    a little before each step so that single pixels do not matter.
    """

    layer: Annotated[str | None, Option("name or index of the layer", completes="layers")] = None
    channels: Annotated[
        str | None,
        Option(
            "which of its channels: 7, 0:16, all, or several with commas (default: 0:16)",
            parse=parse_channels,
        ),
    ] = None
    classes: Annotated[
        str | None,
        Option(
            "classes in place of channels: index, label, all, or several with commas",
            parse=parse_target,
            completes="labels",
        ),
    ] = None
    objective: Annotated[
        Aim,
        Option("the mean of a channel, its neuron in the middle, or (dream) all of the layer in one picture"),
    ] = "channel"
    tap: Annotated[
        Tap | None,
        Option(
            "climb before or after the activation, behind a ReLU most channels are stuck (default: before, "
            "a dream after)"
        ),
    ] = None
    parametrisation: Annotated[
        Numbers, Option("what is changed: the spectrum, which gives clear pictures, or pixels")
    ] = "fourier"
    colours: Annotated[Colours, Option("change colours as they vary in photographs, or each by itself")] = (
        "decorrelated"
    )
    transforms: Annotated[
        Movement, Option("before each step the picture is moved, scaled and turned, or moved, or left")
    ] = "standard"
    steps: Annotated[int, Option("steps of each picture", min=1)] = 128
    rate: Annotated[float, Option("length of a step of Adam", min=0)] = 0.05

    @property
    def climbed(self) -> Tap:
        """The tap. Before the activation a dream would count the squares of what that cuts off."""
        return self.tap or ("after" if self.objective == "dream" else "before")


@dataclass(frozen=True, eq=False)
class Drawn:
    """The picture of a channel or class, and how much noise at the start and the picture excite it."""

    number: int
    picture: Image
    start: float
    end: float

    @property
    def silent(self) -> bool:
        """Whether nothing excites it: it answers zero, or what it did to the noise."""
        return self.end in (0, self.start)


def visualize(source: None, model: Model, options: VisualizeOptions, context: Context) -> Result:
    """See `VisualizeOptions`.

    Pictures: "" the sheet, and each by itself, "block4_conv2-7" or "tabby-281". Arrays: `channels` (n,), the
    numbers of what is drawn, and `activations` (n, channels): what all channels answer to each picture as it
    is saved. Data: what each answers to the noise at the start, and to its picture.
    """
    gallery = Gallery(asked(model, options, context), options, context)
    try:
        gallery.paint()
    except KeyboardInterrupt:
        gallery.keep()
        raise
    return gallery.result()


def asked(model: Model, options: VisualizeOptions, context: Context) -> Subject:
    """What is to be drawn. Raises UsageError."""
    of_a_layer = options.layer or options.channels or options.tap or options.objective != "channel"
    if options.classes and of_a_layer:
        raise UsageError(
            "--classes draws classes; --layer, --channels, --objective and --tap are of a layer: say one."
        )
    if options.classes:
        return subject.classes(model, options.classes, context)
    if not options.layer:
        raise UsageError(
            f"--layer or --classes must be given: layers of '{model.name}' are {some_layers(model)}; "
            "`cnnkit models layers` lists all."
        )
    return subject.layer(model, options.layer, options.channels, options.objective, options.climbed, context)


def some_layers(model: Model) -> str:
    return ", ".join(layer.name for layer in even_pick(model.layers, NAMED))


class Gallery:
    """Pictures being painted, one after the other."""

    def __init__(self, subject: Subject, options: VisualizeOptions, context: Context) -> None:
        self.subject, self.options, self.context = subject, options, context
        self.ascent = Ascent.of(
            subject.model,
            subject.climbed,
            Parametrisation(
                subject.size, subject.model.preprocessing.depth, options.parametrisation, options.colours
            ),
            TRANSFORMS[options.transforms],
            context,
        )
        self.drawn: list[Drawn] = []
        self._reached = ""
        self._saved = time.monotonic()

    def paint(self) -> None:
        """All that is not there yet."""
        if state := self.context.restore():
            self._take_up(state)
        left = self.subject.chosen[len(self.drawn) :]
        for _ in self.context.progress(
            self._steps(left), len(left) * self.options.steps, lambda: self._reached
        ):
            pass

    def keep(self) -> None:
        """What there is after an interruption, and what is needed to go on."""
        if self.drawn:
            self.context.save(self._state())
            self.context.emit(self.result())

    def result(self) -> Result:
        subject, drawn = self.subject, self.drawn
        rows = [
            {**subject.said(one.number), "start": one.start, "end": one.end, "silent": one.silent}
            for one in drawn
        ]
        return Result(
            {"": self._sheet(), **{subject.part(one.number): one.picture for one in drawn}},
            {
                "channels": np.array([one.number for one in drawn]),
                "activations": np.array([subject.answers(one.picture, self.context) for one in drawn]),
            },
            {"title": subject.title, "objective": subject.climbed.aim, "drawn": rows},
            text="\n".join([subject.title, *(f"  {self._line(one)}" for one in drawn)]),
        )

    def _steps(self, numbers: Sequence[int]) -> Iterator[float]:
        """What is reached at each step."""
        for number in numbers:
            name, wanted = self.subject.called(number), self.subject.wanted(number)
            random = np.random.default_rng([self.context.seed, number])
            start = self._answer(number, self.ascent.begin(random, wanted))
            for reached in self.ascent.steps(self.options.steps, self.options.rate, random, wanted):
                self._reached = f"{name}: {drawing.compact(reached)}"
                yield reached
            picture = self.ascent.picture(wanted)
            self._show(Drawn(number, picture, start, self._answer(number, picture)))

    def _answer(self, number: int, picture: Image) -> float:
        return float(self.subject.answers(picture, self.context)[number])

    def _show(self, one: Drawn) -> None:
        self.drawn.append(one)
        self.context.emit(Result({self.subject.part(one.number): one.picture}))
        if one.silent:
            other = "--tap before" if self.options.climbed == "after" else "more --steps or another --seed"
            self.context.say(f"{self._line(one)}: nothing moves it; try {other}")
        if time.monotonic() - self._saved > CHECKPOINT:
            self.context.save(self._state())
            self._saved = time.monotonic()

    def _line(self, one: Drawn) -> str:
        values = f"{drawing.compact(one.start)} -> {drawing.compact(one.end)}"
        return f"{self.subject.called(one.number)}: {values}{', silent' if one.silent else ''}"

    def _sheet(self) -> Image:
        tiles = [one.picture.pixels for one in self.drawn]
        captions = [
            f"{self.subject.called(one.number)}: {'silent' if one.silent else drawing.compact(one.end)}"
            for one in self.drawn
        ]
        height, width = tiles[0].shape[:2]
        columns = columns_for(len(tiles), height / width)
        if columns * width > LARGEST_SHEET:
            tiles = [fitted(tile, *tile_size(height / width, columns)) for tile in tiles]
        sheet = drawing.grid(tiles, columns, GAP, captions=captions)
        return Image(drawing.figure(sheet, self.subject.title), name=self.subject.model.name)

    def _state(self) -> dict[str, NDArray[Any]]:
        pictures = {f"{one.number}": one.picture.pixels for one in self.drawn}
        return pictures | {f"{one.number}/answers": np.array([one.start, one.end]) for one in self.drawn}

    def _take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        for number in self.subject.chosen:
            if str(number) in state:
                start, end = map(float, state[f"{number}/answers"])
                self.drawn.append(Drawn(number, Image(state[str(number)]), start, end))


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("visualize", visualize, VisualizeOptions, takes="nothing", needs="network")]
