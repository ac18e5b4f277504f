"""An operation with an option of every type."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from cnnkit import Context, Image, Operation, Option, Result, hookimpl

CHANNELS = {"all": [0, 1, 2], "red": [0], "green": [1], "blue": [2]}


def parse_window(value: Any) -> tuple[int, int]:
    """(lowest, highest) of "16-235" or [16, 235]."""
    low, high = value.split("-") if isinstance(value, str) else value
    if not 0 <= int(low) < int(high) <= 255:
        raise ValueError("a window is LOW-HIGH within 0 and 255")
    return int(low), int(high)


@dataclass(frozen=True)
class BrightnessOptions:
    """Make a picture lighter or darker."""

    amount: Annotated[int, Option("added to every value", min=-255, max=255)] = 40
    factor: Annotated[float, Option("every value is multiplied by it", min=0)] = 1.0
    invert: Annotated[bool, Option("turn light into dark first")] = False
    channel: Annotated[Literal["all", "red", "green", "blue"], Option("which values")] = "all"
    tags: Annotated[tuple[str, ...], Option("words that go into the data")] = ()
    note: Annotated[Path | None, Option("a text file that goes into the data")] = None
    mask: Annotated[Image | None, Option("only where this picture is light")] = None
    limit: Annotated[int | None, Option("no value gets above", min=0)] = None
    window: Annotated[tuple[int, int], Option("LOW-HIGH that values are clipped to", parse=parse_window)] = (
        0,
        255,
    )


def brightness(picture: Image, model: None, options: BrightnessOptions, context: Context) -> Result:
    values = picture.pixels.astype(np.float64)
    chosen = 255 - values if options.invert else values
    changed = np.clip(chosen * options.factor + options.amount, *options.window)
    if options.limit is not None:
        changed = np.minimum(changed, options.limit)
    channels = CHANNELS[options.channel]
    values[..., channels] = changed[..., channels]
    if options.mask is not None:
        light = options.mask.resized(*picture.size).pixels.mean(axis=2, keepdims=True) > 127
        values = np.where(light, values, picture.pixels)
    data = {
        "mean": float(values.mean()),
        "tags": options.tags,
        "note": options.note.read_text() if options.note else None,
    }
    return Result(
        {"": picture.with_pixels(values.astype(np.uint8))}, data=data, text=f"mean {values.mean():.2f}"
    )


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("brightness", brightness, BrightnessOptions, needs="nothing")]
