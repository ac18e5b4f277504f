"""From a dataclass to checked options: every type, the same from Python and from text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from cnnkit import Image, Option, UsageError
from cnnkit.host.options import RESERVED, build_options, complete, fields_of

WORDS = {"one": 1, "two": 2}


def parse_number(value: Any) -> int:
    """What it returns it also takes, as every parser does."""
    if value not in WORDS and value not in WORDS.values():
        raise ValueError("a number is one or two")
    return WORDS.get(value, value)


@dataclass(frozen=True)
class Options:
    """Every kind."""

    size: Annotated[int, Option("a size", min=1, max=9)]
    rate: Annotated[float, Option("a rate", min=0)] = 0.5
    least: Annotated[int, Option("a bound", max=3)] = 0
    name: Annotated[str, Option("a name")] = "x"
    plain: Annotated[bool, Option("a switch")] = False
    mode: Annotated[Literal["fast", "slow"], Option("a choice")] = "fast"
    words: Annotated[tuple[str, ...], Option("words")] = ()
    counts: Annotated[tuple[int, ...], Option("counts", min=0)] = field(default_factory=lambda: (1, 2))
    path: Annotated[Path | None, Option("a path")] = None
    style: Annotated[Image | None, Option("a picture")] = None
    styles: Annotated[tuple[Image, ...], Option("pictures")] = ()
    limit: Annotated[int | None, Option("a limit", min=1)] = None
    number: Annotated[int, Option("a word", parse=parse_number)] = 1


def build(**values: Any) -> Options:
    options: Options = build_options(Options, {"size": 5, **values}, Image.load)
    return options


def test_fields() -> None:
    """The annotations taken apart."""
    fields = {each.name: each for each in fields_of(Options)}
    assert list(fields) == list(Options.__dataclass_fields__)
    assert fields["size"].flag == "--size" and fields["size"].bounds == "from 1 to 9"
    assert (fields["rate"].bounds, fields["least"].bounds) == ("at least 0", "at most 3")
    assert fields["counts"].default == (1, 2) and fields["counts"].many and fields["counts"].kind is int
    assert fields["mode"].choices == ("fast", "slow")
    assert [name for name, each in fields.items() if each.optional] == ["path", "style", "limit"]
    assert [name for name, each in fields.items() if each.is_picture] == ["style", "styles"]


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("size", "7", 7),
        ("rate", "0.25", 0.25),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 0.001),
        ("name", "y", "y"),
        ("mode", "slow", "slow"),
        ("words", ["a", "b"], ("a", "b")),
        ("words", "a", ("a",)),
        ("counts", ["3", "4"], (3, 4)),
        ("path", "a/b", Path("a/b")),
        ("limit", "4", 4),
        ("number", "two", 2),
    ],
)
def test_text_and_values_give_the_same(name: str, text: Any, value: Any) -> None:
    for given in (text, value):
        found = getattr(build(**{name: given}), name)
        assert found == value and type(found) is type(value)


def test_values_of_near_types() -> None:
    assert build(size=3.0).size == 3 and type(build(size=3.0).size) is int
    assert type(build(rate=1).rate) is float
    assert build(path=None).path is build(limit=None).limit is None


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("size", 0, "--size takes a number, from 1 to 9, not 0."),
        ("size", "10", "--size takes a number, from 1 to 9, not 10."),
        ("size", 1.5, "--size takes a whole number, not 1.5."),
        ("size", "many", "--size takes a whole number, not 'many'."),
        ("size", True, "--size takes a whole number, not True."),
        ("size", None, "--size takes a whole number, not None."),
        ("rate", -0.1, "--rate takes a number, at least 0, not -0.1."),
        ("rate", float("nan"), "--rate takes a number, at least 0, not nan."),
        ("rate", [1], "--rate takes a number, not [1]."),
        ("least", 4, "--least takes a number, at most 3, not 4."),
        ("counts", (1, -1), "--counts takes a number, at least 0, not -1."),
        ("name", 3, "--name takes text, not 3."),
        ("plain", "yes", "--plain takes true or false, not 'yes'."),
        ("plain", 1, "--plain takes true or false, not 1."),
        ("mode", "slwo", "--mode takes fast, slow, not 'slwo'. Did you mean 'slow'?"),
        ("path", 3, "--path takes a path, not 3."),
        ("limit", 0, "--limit takes a number, at least 1, not 0."),
        ("number", "three", "--number 'three': a number is one or two"),
        ("siez", 3, "there is no option 'siez'. Did you mean 'size'?"),
        ("zzz", 3, "there is no option 'zzz'. It has size, rate, least,"),
    ],
)
def test_what_is_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        build(**{name: value})
    assert str(refusal.value).startswith(said)


def test_numbers_without_bounds_must_be_numbers() -> None:
    @dataclass(frozen=True)
    class Free:
        rate: float = 1.0

    with pytest.raises(UsageError, match="--rate takes a number, not nan"):
        build_options(Free, {"rate": float("nan")}, Image.load)


def test_required() -> None:
    with pytest.raises(UsageError, match=r"^--size must be given: a size\.$"):
        build_options(Options, {}, Image.load)


def test_pictures_are_loaded() -> None:
    pixels = np.full((2, 3, 3), 9, np.uint8)
    options = build(style=pixels, styles=["sample:shapes", pixels])
    assert isinstance(options.style, Image) and (options.style.pixels == 9).all()
    assert [picture.size for picture in options.styles] == [(240, 320), (2, 3)]
    assert build(style=None).style is None


def test_as_a_manifest_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked values, absolute paths, a mark for what came from memory; from there the same options again."""
    monkeypatch.chdir(tmp_path)
    Image.load("sample:shapes").save("style.png")
    given = {"size": "5", "counts": "3", "path": "a", "style": "style.png", "number": "two"}
    options = build_options(Options, given, Image.load)
    whole = complete(options, given)
    assert whole == {
        "size": 5, "rate": 0.5, "least": 0, "name": "x", "plain": False, "mode": "fast", "words": (),
        "counts": (3,), "path": str(tmp_path / "a"), "style": str(tmp_path / "style.png"), "styles": [],
        "limit": None, "number": "two",
    }  # fmt: skip
    again = build_options(Options, whole, Image.load)
    assert again.style is not None and again.style.size == (240, 320) and again.number == 2

    memory = build(styles=["sample:shapes", np.zeros((1, 1), np.uint8)])
    assert complete(memory, {})["styles"] == ["sample:shapes", "memory:"]


def test_definitions_that_cannot_be_used() -> None:
    @dataclass(frozen=True)
    class Odd:
        size: complex = 0j

    @dataclass(frozen=True)
    class Numbers:
        size: Literal[1, 2] = 1

    @dataclass(frozen=True)
    class Either:
        size: int | str = 1

    for definition in (Odd, Numbers, Either):
        with pytest.raises(TypeError, match=r"option 'size' has type .*; give its Option a parse function"):
            fields_of(definition)
    with pytest.raises(TypeError, match="is no dataclass"):
        fields_of(dict)
    for word in RESERVED:
        definition = dataclass(frozen=True)(type("Taken", (), {"__annotations__": {word: int}, word: 1}))
        with pytest.raises(TypeError, match=f"option '{word}' has a name that every run has for itself"):
            fields_of(definition)


def test_reserved_words_are_those_of_every_run() -> None:
    import inspect

    from cnnkit.cli.operations import SHARED
    from cnnkit.host.jobs import run

    python = {
        name for name, kind in inspect.signature(run).parameters.items() if kind.kind.name != "VAR_KEYWORD"
    }
    shell = {parameter.name for shared in SHARED.values() for parameter in shared}
    assert python | shell <= RESERVED
