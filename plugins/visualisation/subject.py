"""What is drawn: channels of a layer, the whole of it, or classes."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Image, Model, UsageError, label_of, planes, resolve_targets
from cnnkit.plugins.explaining import parse_target, short
from cnnkit.plugins.synthesis.eye import Tap, tapped
from cnnkit.plugins.tiles import file_safe, some_of, titled
from cnnkit.plugins.visualisation.objective import Aim, Objective

SIDE = 224
"""Of the picture where the network takes any size."""
RANGE = r"all|\d+|\d*:\d*"


def parse_channels(value: Any) -> str:
    """Numbers and ranges, as a person would type them."""
    text = parse_target(value)
    if not all(re.fullmatch(RANGE, part.strip()) for part in text.split(",")):
        raise ValueError(
            "say numbers from 0 up and ranges without their end, such as 7, 0:16, 3,20:24, or all"
        )
    return text


def size_of(model: Model) -> tuple[int, int]:
    """(height, width) of the picture."""
    return model.preprocessing.height or SIDE, model.preprocessing.width or SIDE


@dataclass(frozen=True, eq=False)
class Subject:
    """The `chosen` ones of `count` channels or classes of a network.

    `climbed` is what is made large, and `told` what is said of it: the same behind the activation. `labels`
    are those of classes. Of a whole layer there is one picture, and nothing is chosen.
    """

    model: Model
    title: str
    name: str
    climbed: Objective
    told: Objective
    count: int
    chosen: tuple[int, ...]
    labels: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return size_of(self.model)

    def wanted(self, number: int) -> NDArray[np.float32] | None:
        """What the objective is fed."""
        if self.climbed.aim == "dream":
            return None
        return np.asarray(np.eye(1, self.count, number, dtype=np.float32)[0])

    def called(self, number: int) -> str:
        """The channel or class, for people."""
        if self.climbed.aim == "dream":
            return self.name
        return short(label_of(number, self.labels)) if self.labels else str(number)

    def said(self, number: int) -> dict[str, Any]:
        """The channel or class, as the data of a result have it."""
        if self.labels:
            return {"class": number, "label": self.labels[number]}
        return {} if self.climbed.aim == "dream" else {"channel": number}

    def part(self, number: int) -> str:
        """The channel or class, in the name of a file."""
        if self.climbed.aim == "dream":
            return self.name
        name = re.sub(r"\W+", "-", self.called(number).lower()).strip("-") if self.labels else self.name
        return f"{name}-{number}"

    def answers(self, picture: Image, context: Context) -> NDArray[np.float64]:
        """What `told` is for a picture of the network's size: (count,), and of a whole layer (1,)."""
        x = self.model.preprocessing.to_network(picture.pixels)[None]
        return self.told.reached(context.session(self.model).run(x, [self.told.tensor])[self.told.tensor])


def layer(model: Model, pattern: str, channels: str | None, aim: Aim, tap: Tap, context: Context) -> Subject:
    """Channels of a layer. Raises UsageError for a layer or a channel that does not exist."""
    place, climbed = tapped(model, pattern, "after"), tapped(model, pattern, tap)
    over = planes(model.graph, *size_of(model)).get(place.tensor)
    shape = shape_of(model, place.tensor, context)
    if not over and len(shape) != 2:
        raise UsageError(
            f"the layer '{place.name}' of '{model.name}' has the shape {shape}, which holds no channels over "
            "the picture: take a convolution, an activation or a dense layer."
        )
    chosen: tuple[int, ...] = (0,)
    axis = over.axis if over else 1
    count = shape[axis]
    if aim == "dream":
        if channels:
            raise UsageError("the dream of a layer is one picture of all its channels: leave out --channels.")
        title = f"{titled(place)}, all {count} channels"
    else:
        chosen = numbers(channels or "0:16", count, place.name)
        title = f"{titled(place)}, {some_of(len(chosen), count, 'channel')}"
    return Subject(
        model,
        title if aim == "channel" else f"{title}, {aim}",
        file_safe(place.name),
        Objective(climbed.tensor, axis, aim),
        Objective(place.tensor, axis, aim),
        count,
        chosen,
    )


def classes(model: Model, target: str, context: Context) -> Subject:
    """Classes by their scores before the softmax. Raises UsageError for a class that does not exist."""
    if any(part.split(":")[0].strip().lower() == "top" for part in target.split(",")):
        raise UsageError(f"--classes {target}: which classes are on top depends on a picture; name them.")
    count, tensor = model.classes, model.logits.tensor
    chosen = resolve_targets(target, model.labels, np.zeros(count))
    axis = max(axis for axis, size in enumerate(shape_of(model, tensor, context)) if size == count)
    score = Objective(tensor, axis)
    labels = model.labels or tuple(label_of(number, ()) for number in range(count))
    title = f"{model.name}, {len(chosen)} of {count} classes"
    return Subject(model, title, "", score, score, count, tuple(chosen), labels)


def shape_of(model: Model, tensor: str, context: Context) -> tuple[int, ...]:
    """Of a layer's value for one picture."""
    grey = model.preprocessing.to_network(np.full((*size_of(model), 3), 127.5))[None]
    return context.session(model).run(grey, [tensor])[tensor].shape


def numbers(text: str, count: int, name: str) -> tuple[int, ...]:
    """The channels that a text means, each once. Raises UsageError for one that is not there."""
    found: list[int] = []
    for part in text.replace("all", ":").split(","):
        start, colon, stop = part.strip().partition(":")
        if colon:
            found += range(*slice(int(start or 0), int(stop or count)).indices(count))
        else:
            found.append(int(start))
    if not found or max(found) >= count:
        raise UsageError(
            f"--channels {text}: no such channel; the layer '{name}' has {count}, from 0 to {count - 1}."
        )
    return tuple(dict.fromkeys(found))
