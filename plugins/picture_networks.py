"""Networks that make pictures out of pictures: what they are fed, and what their numbers mean."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from cnnkit import Context, Model, ModelError, Preprocessing, Reach, reach
from cnnkit.plugins.tiling import mirrored

Array = NDArray[np.float32]
Numbers = Literal["0..1", "0..255", "-1..1"]

RANGES: dict[str, Preprocessing] = {
    "0..1": Preprocessing(scale=1 / 255),
    "0..255": Preprocessing(),
    "-1..1": Preprocessing.preset("tf"),
}
"""By their black and white."""

TRIED = 64
"""The side of the picture on which a network shows the size of its numbers."""
LARGE = 16.0
"""Numbers that differ by more than this are no brightness from 0 to 1 or -1 to 1."""

_BOUNDED = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softsign": (-1.0, 1.0)}
_CARRIES_ON = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DepthToSpace", "Slice"}


@dataclass(frozen=True)
class PictureNetwork:
    """A network, which of its outputs is the picture, and how pixels become its numbers and come back.

    `assumptions` are sentences for the user.
    """

    model: Model
    tensor: str
    reach: Reach
    taken: Preprocessing
    made: Preprocessing
    assumptions: tuple[str, ...]

    @property
    def sees_lightness(self) -> bool:
        """Whether it takes and makes grey pictures, so that the colours stay those of the picture."""
        return self.model.graph.channels == self.reach.channels == 1

    def painted(self, values: Array) -> Array:
        """Its numbers (height, width, channels) as (height, width, 3 or 4) in 0..255, not clipped."""
        if values.shape[-1] < 4:
            return self.made.to_pixels(values)
        opacity = _of_one_channel(self.made).to_pixels(values[..., 3:])
        return np.concatenate([self.made.to_pixels(values[..., :3]), opacity[..., :1]], axis=-1)


def picture_network(model: Model, given: str, returned: str, context: Context) -> PictureNetwork:
    """What a network does with pictures; `given` and `returned` are words of RANGES, "auto", or "same".

    Raises ModelError when it makes none.
    """
    tensor, looks = _picture_of(model)
    bounded = _bounds(model, tensor)
    plain = replace(model.preprocessing, height=None, width=None)
    taken, assumptions = plain, []
    if given != "auto":
        taken = _like(plain, given)
    elif _is_doubtful(model):
        word, reason = _guessed(model, tensor, looks, bounded, _like(plain, "0..1"), context)
        taken = _like(plain, word)
        assumptions.append(f"fed with {word}, as {reason}; say --input-range otherwise")
    word = returned
    if returned == "auto":
        word = bounded or "same"
        meaning = f"{bounded}, as its last layer says" if bounded else "the ones that it is fed"
        assumptions.append(
            f"the numbers that it makes were taken for {meaning}; say --output-range otherwise"
        )
    made = replace(taken if word == "same" else _like(taken, word), layout="nhwc")
    if looks.channels == 1:
        made = _of_one_channel(made)
    elif made.channels == "grey":
        made = replace(made, channels="rgb")
    return PictureNetwork(model, tensor, looks, taken, made, tuple(assumptions))


def _picture_of(model: Model) -> tuple[str, Reach]:
    """The first output that is a picture. Raises ModelError."""
    reasons = []
    for output in model.graph.outputs:
        try:
            looks = reach(model.graph, output.name)
        except ModelError as error:
            reasons.append(str(error))
            continue
        if looks.channels in (1, 3, 4):
            return output.name, looks
        reasons.append(f"its output '{output.name}' has {looks.channels} channels, not 1, 3 or 4")
    try:
        hint = f"it has {model.classes} scores: `cnnkit run classify` tells what they say"
    except ModelError:
        hint = reasons[0]
    raise ModelError(f"the network '{model.name}' makes no picture: {hint}")


def _like(taken: Preprocessing, word: str) -> Preprocessing:
    """Pixels as numbers of a range, in the order and layout of another preprocessing."""
    return replace(RANGES[word], channels=taken.channels, layout=taken.layout)


def _of_one_channel(made: Preprocessing) -> Preprocessing:
    mean, std = ((float(np.mean(values)),) for values in (made.mean, made.std))
    return replace(made, channels="grey", mean=mean, std=std)


def _is_doubtful(model: Model) -> bool:
    """Whether its preprocessing was guessed, as that of networks for ImageNet's classes."""
    guessed = any(sentence.startswith("preprocessing is not in the file") for sentence in model.assumptions)
    return guessed and model.preprocessing.mean != (0.0,)


def _guessed(
    model: Model, tensor: str, looks: Reach, bounded: str | None, unit: Preprocessing, context: Context
) -> tuple[str, str]:
    """What a network is fed, by what it makes; and why."""
    if bounded == "-1..1":
        return bounded, "that is what it makes"
    sides = [
        fixed or ceil(max(TRIED, smallest) / stride) * stride
        for fixed, smallest, stride in zip(model.graph.size, looks.smallest, looks.stride, strict=True)
    ]
    rows, columns = (mirrored(np.arange(side), TRIED) for side in sides)
    waves = np.sin(rows / 5)[:, None] + np.cos(columns / 7)
    pixels = np.stack([waves + 2, 2 - waves, waves * waves], axis=-1) * 63.75
    values = context.session(model).run(unit.to_network(pixels)[None], [tensor])[tensor]
    spread = float(np.ptp(values))
    word = "0..255" if spread > LARGE else "0..1"
    return word, f"the numbers that it makes of 0..1 differ by up to {spread:.3g}"


def _bounds(model: Model, tensor: str) -> str | None:
    """The range that the last layers of a network hold its numbers in, if they do."""
    scale, shift = 1.0, 0.0
    while node := model.graph.producers.get(tensor):
        kind = node.op_type
        limits = _BOUNDED.get(kind) or _limits(model, node)
        if limits:
            low, high = sorted(limit * scale + shift for limit in limits)
            return "0..255" if high > 2 else "-1..1" if low < -0.1 else "0..1"
        if kind not in _CARRIES_ON:
            step = _scaled(model, node)
            if step is None:
                return None
            tensor, factor, added = step
            scale, shift = scale * factor, shift + scale * added
        else:
            tensor = node.input[0]
    return None


def _limits(model: Model, node: Any) -> tuple[float, float] | None:
    """Those of a Clip."""
    if node.op_type != "Clip":
        return None
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    values = [model.graph.constant(name) for name in node.input[1:3] if name]
    found = [float(value) for value in values if value is not None] or [*told.values()]
    return (min(found), max(found)) if len(found) == 2 else None


def _scaled(model: Model, node: Any) -> tuple[str, float, float] | None:
    """What a node multiplies with one number, or adds one to: (it, factor, what is added)."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    for place in (0, 1):
        value = model.graph.constant(node.input[place])
        if value is None or value.size != 1 or (place == 0 and node.op_type in ("Sub", "Div")):
            continue
        number, other = float(value.item()), node.input[1 - place]
        match node.op_type:
            case "Add":
                return other, 1.0, number
            case "Sub":
                return other, 1.0, -number
            case "Mul":
                return other, number, 0.0
            case "Div" if number:
                return other, 1 / number, 0.0
    return None
