"""The grid of a sweep: what varies, and the cells that come of it.

texts that a person typed --alternatives--> values --Axis--> cells, each a job with a name of its own
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from cnnkit.errors import CnnkitError, UsageError, did_you_mean
from cnnkit.host.operation import Job, ModelSpec, Operation, size_of
from cnnkit.host.options import Field, fields_of
from cnnkit.host.paths import Destination, stem_of
from cnnkit.images.image import Image

SOURCE, SEED = "source", "seed"
NETWORK = ("model", "weights", "input_size")
"""With these, what can vary beside the options of an operation."""
LONGEST_WORD, LONGEST_NAME = 40, 120
"""Characters of a value, and of all of a cell, in the name of a file."""


# What a person types


def alternatives(texts: Iterable[Any], field: Field | None = None) -> list[Any]:
    """The values that texts stand for, one text for each time that the flag is given; of switches booleans.

    Commas separate alternatives. Where there is a semicolon, semicolons do, and commas belong to the values:
    "16,32" are two, "a,b;c" are two as well, and "a,b;" is one. The value of a `field` that takes several at
    once is a list then.
    """
    found: list[Any] = []
    for text in texts:
        if isinstance(text, bool):
            found.append(text)
        elif ";" not in text:
            found += [part.strip() for part in text.split(",")]
        else:
            many = field is not None and field.many and field.option.parse is None
            parts = [part.strip() for part in text.split(";") if part.strip()]
            found += [part.split(",") if many and not Path(part).exists() else part for part in parts]
    return found


# What varies


@dataclass(frozen=True)
class Axis:
    """What varies, by its name among the options of a run, and its values.

    `rank` is low where another value may mean another graph; `pictures` says that the values are pictures.
    """

    name: str
    values: tuple[Any, ...]
    rank: int = 0
    pictures: bool = False

    @property
    def title(self) -> str:
        """As a person types it."""
        return self.name.replace("_", "-")

    @property
    def words(self) -> list[str]:
        """Of each value; of files of the same name the whole path."""
        is_file = self.pictures or self.name in ("model", "weights")
        short = [word_for(value, is_file) for value in self.values]
        return short if len({*short}) == len(short) else [word_for(value) for value in self.values]


def word_for(value: Any, is_file: bool = False) -> str:
    """A value as people read it: of a file its stem, of several all, with commas."""
    if isinstance(value, list | tuple):
        return ", ".join(word_for(item, is_file) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.12g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    if isinstance(value, str) and is_file and (Path(value).suffix or value.startswith("sample:")):
        return stem_of(value)
    if isinstance(value, str | int | Path) and not (is_file and isinstance(value, Path)):
        return re.sub(r",\s*", ", ", str(value))
    return stem_of(value)


def axes_of(operation: Operation, sources: Sequence[Any], grid: Mapping[str, Sequence[Any]]) -> list[Axis]:
    """What varies, in the order that was given; the sources come first.

    Raises UsageError for a name that is no option of the operation, and for values that do not fit, and
    ImageError for pictures.
    """
    fields = {field.name: field for field in fields_of(operation.options)}
    known = [*fields, SEED, *(NETWORK if operation.needs != "nothing" else ())]
    axes = [Axis(SOURCE, tuple(sources), 2, operation.takes != "folder")] if sources else []
    for name, values in grid.items():
        if name not in known:
            hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
            raise UsageError(f"there is no option '{name}' to sweep over {operation.name}.{hint}")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"--{name.replace('_', '-')} needs a list of one or more values to sweep over.")
        if SEED == name:
            axes.append(Axis(name, tuple(_seed(value) for value in values), 3))
        elif name in NETWORK:
            axes.append(Axis(name, tuple(values), 0))
        else:
            field = fields[name]
            is_number = field.kind in (int, float) and field.option.parse is None
            meant = [field.convert(value, Image.load) for value in values]
            rank = 3 if is_number or field.is_picture else 1
            axes.append(Axis(name, tuple(meant if is_number else values), rank, field.is_picture))
    return axes


def _seed(value: Any) -> int:
    try:
        seed = int(value)
    except (TypeError, ValueError):
        seed = -1
    if seed < 0:
        raise UsageError(f"--seed takes a whole number, at least 0, not {value!r}.")
    return seed


# What comes of it


@dataclass(eq=False)
class Cell:
    """One combination: its `job`, where its result goes, and the `numbers` of its values on their axes.

    `words` are the values that vary. `manifest` is that of its result where it is done, `seconds` what that
    took, `error` what came of it instead.
    """

    job: Job
    place: Destination
    words: dict[str, str]
    numbers: dict[str, int]
    manifest: dict[str, Any] | None = None
    seconds: float | None = None
    error: CnnkitError | None = None

    @property
    def label(self) -> str:
        """What tells it from the others, for people."""
        return ", ".join(f"{name.replace('_', '-')} {word}" for name, word in self.words.items())


def cells_of(axes: Sequence[Axis], job: Job, folder: Path) -> list[Cell]:
    """Every combination, the last axis fastest. What the axes do not say is that of `job`."""
    varying = [axis for axis in axes if len(axis.values) > 1]
    parts = {axis.name: _distinct([file_safe(word) for word in axis.words]) for axis in axes}
    cells = []
    for numbers in product(*(range(len(axis.values)) for axis in axes)):
        at = {axis.name: number for axis, number in zip(axes, numbers, strict=True)}
        chosen = {axis.name: axis.values[at[axis.name]] for axis in axes}
        name = [parts[SOURCE][at[SOURCE]]] if SOURCE in at else []
        name += [f"{a.title}={parts[a.name][at[a.name]]}" for a in varying if a.name != SOURCE]
        words = {axis.name: axis.words[at[axis.name]] for axis in varying}
        stem = ".".join([_short(".".join(name)), job.operation] if name else [job.operation])
        cells.append(Cell(_job(job, chosen), Destination(folder / stem), words, at))
    return cells


def in_order(cells: Sequence[Cell], axes: Sequence[Axis]) -> list[Cell]:
    """The cells as they are best computed: what may change the graph varies slowest.

    First the network and its size, then words such as layers, then the source; pictures and numbers are fed.
    """
    slowest_first = sorted(axes, key=lambda axis: axis.rank)
    return sorted(cells, key=lambda cell: [cell.numbers[axis.name] for axis in slowest_first])


def _job(job: Job, chosen: Mapping[str, Any]) -> Job:
    chosen = dict(chosen)
    sources = (chosen.pop(SOURCE),) if SOURCE in chosen else ()
    seed = chosen.pop(SEED, job.seed)
    model = job.model or ModelSpec()
    if "model" in chosen:
        model = replace(model, name=str(chosen.pop("model")))
    if "weights" in chosen:
        model = replace(model, weights=chosen.pop("weights"))
    if "input_size" in chosen:
        size = chosen.pop("input_size")
        model = replace(model, size=size if isinstance(size, tuple) else size_of(str(size)))
    return replace(job, sources=sources, model=model, options={**job.options, **chosen}, seed=seed)


def file_safe(word: str) -> str:
    """A value's word as part of a file's name on any system."""
    word = re.sub(r"[^\w.+-]+", "_", word).strip("._") or "value"
    return _short(word, LONGEST_WORD)


def _short(name: str, most: int = LONGEST_NAME) -> str:
    """The name, or its beginning and what tells it from others with the same beginning."""
    return name if len(name) <= most else f"{name[: most - 9]}-{sha256(name.encode()).hexdigest()[:8]}"


def _distinct(words: Sequence[str]) -> list[str]:
    """The words, told apart by a number where a file system might take two for one."""
    taken: set[str] = set()
    found = []
    for word in words:
        name, number = word, 2
        while name.casefold() in taken:
            name, number = f"{word}_{number}", number + 1
        taken.add(name.casefold())
        found.append(name)
    return found
