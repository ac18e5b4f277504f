"""From a frozen dataclass to checked options: one definition gives the shell, Python and the manifest."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cnnkit.errors import UsageError, did_you_mean
from cnnkit.host.operation import MEMORY, portable

RESERVED = frozenset(
    "source sources operation model host seed settings reporter help debug "
    "weights preprocess fit filter labels input_size output report force skip_existing resume json quiet "
    "recursive device threads max_memory batch".split()
)
"""Words of `cnnkit.run` and of every `cnnkit run ...`, which no operation's option may take."""


@dataclasses.dataclass(frozen=True)
class Option:
    """What a person needs to know of one field: `patch: Annotated[int, Option("side", min=1)] = 32`.

    `min` and `max` bound a number, both included. `parse` turns what the user wrote (text at a shell, any
    JSON value from Python) into the field's value and raises ValueError with a sentence that says what it
    takes; what it returns it also takes. `metavar` is the word that stands for the value in the help, and
    `completes` says that a shell may offer the network's layers or labels.
    """

    help: str
    min: float | None = None
    max: float | None = None
    parse: Callable[[Any], Any] | None = None
    metavar: str | None = None
    completes: Literal["layers", "labels"] | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of an options dataclass, its annotation taken apart.

    `kind` is the bare type (int, float, str, bool, Path, Image or anything with `parse`); `many` says that
    the value is a tuple of it; `optional` that None is allowed; `choices` lists the words of a Literal.
    """

    name: str
    kind: Any
    default: Any
    option: Option
    many: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_picture(self) -> bool:
        return getattr(self.kind, "__name__", "") == "Image" and self.option.parse is None

    @property
    def bounds(self) -> str:
        """The range of a number in words; empty where it has none."""
        low, high = self.option.min, self.option.max
        if low is not None and high is not None:
            return f"from {low:g} to {high:g}"
        return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""

    def convert(self, value: Any, picture: Callable[[Any], Any]) -> Any:
        """The checked value of the field. Raises UsageError; `picture` loads what an Image field names."""
        if value is None and self.optional:
            return None
        if self.many and self.option.parse is None:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(self._one(item, picture) for item in items)
        return self._one(value, picture)

    def portable(self, value: Any, given: Any) -> Any:
        """The value as a manifest holds it: paths absolute, and what was given to an option with `parse`."""
        if self.option.parse is not None:
            return given
        if value is None or not (self.is_picture or self.kind is Path):
            return value
        if isinstance(value, list | tuple):
            return [portable(item) or MEMORY for item in value]
        return portable(value) or MEMORY

    def _one(self, value: Any, picture: Callable[[Any], Any]) -> Any:
        if self.option.parse is not None:
            try:
                return self.option.parse(value)
            except (ValueError, TypeError) as error:
                raise UsageError(f"{self.flag} {_shown(value)}: {error}") from None
        if self.is_picture:
            return picture(value)
        if self.choices:
            if value not in self.choices:
                hint = did_you_mean(str(value), self.choices)
                raise UsageError(f"{self.flag} takes {_words(self.choices)}, not {_shown(value)}.{hint}")
            return value
        return self._in_range(self._typed(value))

    def _typed(self, value: Any) -> Any:
        if isinstance(value, self.kind) and not (isinstance(value, bool) and self.kind is not bool):
            return value
        whole = isinstance(value, float) and value.is_integer()
        if (
            self.kind in (int, float)
            and not isinstance(value, bool)
            and (isinstance(value, int | str) or whole)
        ):
            try:
                return self.kind(value)
            except ValueError:
                pass
        if self.kind is Path and isinstance(value, str):
            return Path(value)
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
        raise UsageError(f"{self.flag} takes {noun.get(self.kind, self.kind)}, not {_shown(value)}.")

    def _in_range(self, value: Any) -> Any:
        low, high = self.option.min, self.option.max
        if self.kind not in (int, float):
            return value
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            wanted = f"a number, {self.bounds}" if self.bounds else "a number"
            raise UsageError(f"{self.flag} takes {wanted}, not {_shown(value)}.")
        return value


def fields_of(options: type) -> tuple[Field, ...]:
    """The fields of an options dataclass, in order. Raises TypeError where the definition is unusable."""
    if not dataclasses.is_dataclass(options):
        raise TypeError(f"{options!r} is no dataclass; an operation's options are a frozen dataclass")
    hints = get_type_hints(options, include_extras=True)
    return tuple(_field(field, hints[field.name]) for field in dataclasses.fields(options))


def build_options(options: type, values: Mapping[str, Any], picture: Callable[[Any], Any]) -> Any:
    """An instance of `options` from plain values, everything checked; what is not given keeps its default.

    Raises UsageError in one sentence: an unknown name (with the nearest known one), a wrong type, a value out
    of range, a missing value. `picture` loads the sources that Image fields name.
    """
    fields = {field.name: field for field in fields_of(options)}
    for name in values:
        if name not in fields:
            known = f"It has {_words(fields)}." if fields else "It has none."
            raise UsageError(f"there is no option '{name}'.{did_you_mean(name, fields) or ' ' + known}")
    missing = [f.flag for f in fields.values() if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise UsageError(
            f"{_words(missing)} must be given: {fields[missing[0][2:].replace('-', '_')].option.help}."
        )
    given = {name: fields[name].convert(value, picture) for name, value in values.items()}
    return options(**given)


def complete(options: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of every field by name, as a manifest holds them. `options` were built from `values`."""
    return {
        field.name: field.portable(getattr(options, field.name), values.get(field.name, field.default))
        for field in fields_of(type(options))
    }


def _field(field: "dataclasses.Field[Any]", hint: Any) -> Field:
    if field.name in RESERVED:
        raise TypeError(f"option '{field.name}' has a name that every run has for itself")
    option = Option("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        option = next((extra for extra in extras if isinstance(extra, Option)), option)
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        optional = len(members) < len(get_args(hint))
        hint = members[0] if len(members) == 1 else object
    many = False
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        many, hint = True, get_args(hint)[0]
    choices: tuple[str, ...] = ()
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    usable = hint in (int, float, str, bool, Path) or getattr(hint, "__name__", "") == "Image"
    if option.parse is None and not (usable and all(isinstance(choice, str) for choice in choices)):
        raise TypeError(f"option '{field.name}' has type {hint}; give its Option a parse function")
    return Field(field.name, hint, default, option, many, optional, choices)


def _words(names: Any) -> str:
    return ", ".join(str(name) for name in names)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value}"
