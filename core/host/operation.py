"""What can be asked: an operation, and a job that asks for it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cnnkit.errors import UsageError

Takes = Literal["picture", "pictures", "folder", "nothing"]
Needs = Literal["nothing", "network", "classifier"]


@dataclass(frozen=True)
class Operation:
    """One thing that cnnkit can do: the shell command, the Python call, the manifest and the help in one.

    `run` is called as `run(source, model, options, context)`. By `takes`, source is

    - "picture": one `Image`; returns a `Result`. The host loops over many.
    - "pictures": an iterator of `Image`; returns an iterator of one `Result` per picture, in order, and then
      possibly one more about them all.
    - "folder": a `Path`; returns a `Result`.
    - "nothing": None; returns a `Result`.

    By `needs`, model is None ("nothing"), a `Model` ("network"), or a `Model` whose output is one score per
    class ("classifier"). `network` says which one the options ask for when the user names none, None for
    none at all; without it that is "default", and the user is told of `larger`, one that does better.
    `options` is an instance of the frozen dataclass of the same name, whose docstring is the help text.
    """

    name: str
    run: Callable[..., Any]
    options: type
    takes: Takes = "picture"
    needs: Needs = "network"
    network: Callable[[Any], str | None] | None = None
    larger: str = "mobilenet_v2"

    def __post_init__(self) -> None:
        for value, words in ((self.takes, get_args(Takes)), (self.needs, get_args(Needs))):
            if value not in words:
                raise ValueError(f"the operation {self.name} says '{value}', not one of {', '.join(words)}")

    @property
    def summary(self) -> str:
        """The first paragraph of the options' docstring, on one line."""
        paragraph = (self.options.__doc__ or "").strip().split("\n\n")[0]
        return " ".join(paragraph.split())


RANDOM = "random:"
"""Begins the text that asks for random weights: random:SEED, or random:SEED@PICTURE."""


@dataclass(frozen=True)
class ModelSpec:
    """A network as a person names it: a known name or the path of a file, and what the file does not say.

    `preprocess` is caffe, tf, torch or raw; `fit` squash, crop or pad; `filter` one of Preprocessing's
    filters; `labels` the path of a file of class names; `size` (height, width) for networks that take any
    size; `weights` the path of a file of weights, or "random:SEED", for a network that is made from them.
    """

    name: str = ""
    """Empty: the one that the operation asks for."""
    preprocess: str | None = None
    fit: str | None = None
    filter: str | None = None
    labels: str | None = None
    size: tuple[int, int] | None = None
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; paths are made absolute."""
        path = Path(self.name)
        is_path = path.suffix == ".onnx" or len(path.parts) > 1 or path.is_file()
        name = str(path.absolute()) if is_path else self.name
        labels = str(Path(self.labels).absolute()) if self.labels else None
        return {**asdict(self), "name": name, "labels": labels, "weights": _portable_weights(self.weights)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelSpec":
        size = values.get("size")
        return cls(**{**values, "size": tuple(size) if size else None})


def _portable_weights(weights: str | None) -> str | None:
    if weights is None or not weights.startswith(RANDOM):
        return weights and str(Path(weights).absolute())
    seed, _, picture = weights.partition("@")
    return f"{seed}@{portable(picture)}" if picture else weights


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "224" or "480x640". Raises UsageError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"a size is HEIGHTxWIDTH in pixels, such as 480x640, or one number, not '{text}'.")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class Job:
    """What is asked, and nothing of how: JSON-able when its sources are, and picklable.

    `sources` are paths, `sample:NAME` or "-" (standard input); from Python also bytes, PIL pictures, arrays
    and `Image`s, which a manifest cannot hold. `model` is None for operations that need no network. `options`
    are plain values by name; what is absent keeps its default.
    """

    operation: str
    sources: tuple[Any, ...] = ()
    model: ModelSpec | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; a source from memory becomes null, a path is made absolute."""
        return {
            "operation": self.operation,
            "sources": [portable(source) for source in self.sources],
            "model": self.model.to_json() if self.model else None,
            "options": {name: portable_option(value) for name, value in self.options.items()},
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Job":
        model = values["model"]
        return cls(
            values["operation"],
            tuple(values["sources"]),
            ModelSpec.from_json(model) if model else None,
            values["options"],
            values["seed"],
        )


MEMORY = "memory:"
"""Stands in a manifest for an option's picture that came from no file."""


def names_a_file(source: Any) -> bool:
    """Whether a source is a path, and not standard input, a sample, or a picture from memory."""
    return isinstance(source, str | Path) and source != "-" and not str(source).startswith("sample:")


def portable(source: Any) -> str | None:
    """A source as a manifest holds it: an absolute path, `sample:NAME`, "-", or None for one from memory."""
    source = getattr(source, "source", source)
    if isinstance(source, Path):
        return str(source.absolute())
    if not isinstance(source, str):
        return None
    return str(Path(source).absolute()) if names_a_file(source) else source


def portable_option(value: Any) -> Any:
    """An option's value as a manifest holds it."""
    if isinstance(value, list | tuple):
        return [portable_option(item) for item in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return portable(value)
