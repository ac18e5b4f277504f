"""Pickles that want more than to be read: none of them gets it."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tiny_network import PROTOCOL, call, name, value, write_old_pth, write_pth

from cnnkit import ModelError
from cnnkit.models.weights.files import FileWeights
from cnnkit.models.weights.pickles import Refused, dictionary, read_pickle

DICTIONARY = name("collections", "OrderedDict")
KNOWN = {"collections.OrderedDict": dictionary, "torch.FloatStorage": "float32"}


def run(instructions: bytes) -> Any:
    return read_pickle(io.BytesIO(PROTOCOL + instructions + b"."), KNOWN, lambda words: words)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_as_pickle_has_them(protocol: int) -> None:
    shared = [1, 2]
    tuples = [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    plain = {"a": shared, "b": [shared, tuples], 3: 2.5, "c": [None, True, False, -70000, 1 << 70]}
    file = io.BytesIO(pickle.dumps(plain, protocol) + pickle.dumps("next", protocol))
    found = read_pickle(file, {}, lambda words: words)
    assert found == plain
    assert found["b"][0] is found["a"]
    assert read_pickle(file, {}, lambda words: words) == "next"


def test_dictionaries_of_either_python() -> None:
    assert run(call(DICTIONARY)) == {}
    assert run(call(DICTIONARY, [["a", 1], ["b", 2]])) == {"a": 1, "b": 2}
    assert run(call(DICTIONARY) + value({"_metadata": 1}) + b"b") == {}


class Hostile:
    """Its pickle calls a function."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def calling(module: str, function: str, *arguments: Any) -> bytes:
    return PROTOCOL + call(name(module, function), *arguments) + b"."


HOSTILE = {
    "posix.system": pickle.dumps(Hostile(os.system, ("touch ran",)), 2),
    "nt.system": calling("nt", "system", "type nul > ran"),
    "builtins.eval": calling("builtins", "eval", "open('ran', 'w')"),
    "__builtin__.eval": pickle.dumps(Hostile(eval, ("open('ran', 'w')",)), 2),
    "builtins.exec": pickle.dumps(Hostile(exec, ("open('ran', 'w')",)), 4),
    "builtins.getattr": pickle.dumps(Hostile(getattr, (Path("ran"), "touch")), 4),
    "operator.attrgetter": calling("operator", "attrgetter", "system"),
    "collections.OrderedDict.__init__": PROTOCOL + b"\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "torch._utils.os.system": calling("torch._utils", "os.system", "touch ran"),
    "numpy._core.multiarray._reconstruct": calling("numpy._core.multiarray", "_reconstruct", 0),
    "torch.hub.load": calling("torch.hub", "load", "someone/something"),
    "torch.storage._load_from_bytes": calling("torch.storage", "_load_from_bytes", "x"),
}


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_that_a_file_names_runs(
    word: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = HOSTILE[word].removesuffix(b".")
    path = tmp_path / "a.pth"
    if zipped:
        write_pth(path, body, {})
    else:
        write_old_pth(path, body, {})
    with pytest.raises(ModelError, match=rf"it has the name '{word}', and cnnkit runs nothing from a file"):
        FileWeights.open(path)
    assert os.listdir() == ["a.pth"]


def test_the_first_of_the_old_pickles_may_be_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(1, 6):
        parts = [value(part) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
        parts[number - 1] = call(name("posix", "system"), "touch ran")
        Path("a.pth").write_bytes(b"".join(PROTOCOL + part + b"." for part in parts))
        with pytest.raises(ModelError, match=r"'posix\.system'"):
            FileWeights.open(Path("a.pth"))
        assert os.listdir() == ["a.pth"]


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}, 4))
    with pytest.raises(ModelError, match="a Python pickle, but not one of PyTorch"):
        FileWeights.open(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("instructions", "word"),
    [
        (DICTIONARY + b")\x81", "NEWOBJ"),
        (DICTIONARY + b")}\x92", "NEWOBJ_EX"),
        (b"(" + DICTIONARY + b"o", "OBJ"),
        (b"(iposix\nsystem\n", "INST"),
        (b"\x82\x01", "EXT1"),
        (b"C\x01a", "SHORT_BINBYTES"),
        (b"N2", "DUP"),
    ],
)
def test_other_instructions_are_refused(instructions: bytes, word: str) -> None:
    with pytest.raises(Refused, match=f"the pickle instruction {word}"):
        run(instructions)


@pytest.mark.parametrize(
    "instructions",
    [
        call(name("torch", "FloatStorage"), "x"),  # a type is nothing to call
        call(value("text")),
        value({}) + value({"__class__": 1}) + b"R",
        value("text") + value({"upper": 1}) + b"b",  # attributes of something else than a dictionary
        name("collections", "OrderedDict") + value({"__doc__": "x"}) + b"b",
        value((1, 2)) + value("a") + value("b") + b"s",
        value({}) + value((1, 2)) + value("b") + b"s",  # a tuple as a key
        value({}) + value(1) + b"a",
        b"R",
        b"t",
        b"h\x05",
        b"",
    ],
)
def test_nonsense_is_damage(instructions: bytes) -> None:
    with pytest.raises((TypeError, ValueError, IndexError, KeyError, AttributeError)):
        run(instructions)


def test_a_memory_cell_far_away_takes_no_memory() -> None:
    assert run(value(1) + b"r\xff\xff\xff\xff") == 1


def test_a_list_is_copied_once() -> None:
    """Or a file of a megabyte could ask for a hundred thousand dictionaries of a hundred thousand pairs."""
    pairs = value([["a", 1], ["b", 2]]) + b"q\x00"
    emptied, first, *others = run(b"(" + pairs + (DICTIONARY + b"h\x00\x85R") * 9 + b"t")
    assert (emptied, first, others) == ([], {"a": 1, "b": 2}, [{}] * 8)


def test_a_key_is_nothing_whose_hash_takes_for_ever() -> None:
    """A tuple of the same tuple twice, a hundred times over."""
    nested = value(()) + b"q\x00" + b"h\x00\x86q\x00" * 100
    with pytest.raises(TypeError, match="not a key"):
        run(b"}" + nested + b"Ns")
