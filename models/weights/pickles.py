"""Reading a pickle without running it.

A pickle is a program for a machine with a stack. A dictionary of tensors takes a few dozen of its
instructions, and these are all that is known here. Where a pickle names something to import and call, only
names that the caller knows are let through, and what is then called is the caller's own function: nothing
that a file names is ever looked up.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
PUT = {"BINPUT", "LONG_BINPUT"}
GET = {"BINGET", "LONG_BINGET"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
    """The pickle has something that is not read, which the message names."""


def read_pickle(file: BinaryIO, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that begins where the file stands, which is then where it ends.

    `known` has by name what the pickle may refer to; functions are called. `persistent` turns what the pickle
    says of things outside of it into these things. Raises Refused, or any exception for a damaged file.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memory: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def named(name: str) -> Any:
        if name not in known:
            raise Refused(f"the name '{name}'")
        return known[name]

    argument: Any
    for instruction, argument, _ in pickletools.genops(file):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in VALUES:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case name if name in EMPTY:
                stack.append(EMPTY[name]())
            case name if name in PUT:
                memory[argument] = stack[-1]
            case "MEMOIZE":
                memory[len(memory)] = stack[-1]
            case name if name in GET:
                stack.append(memory[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case name if name in TUPLES:
                size = TUPLES[name]
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = since_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                pair = stack[-2:]
                del stack[-2:]
                _update(stack[-1], [pair])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(named(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                module, attribute = stack[-2:]
                stack[-2:] = [named(f"{module}.{attribute}")]
            case "REDUCE":
                function, arguments = stack[-2:]
                stack[-2:] = [function(*arguments)]
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "BUILD":  # attributes of a dictionary, such as the versions of its modules
                stack.pop()
                _update(stack[-1], ())
            case other:
                raise Refused(f"the pickle instruction {other}")
    raise EOFError


def dictionary(pairs: list[Any] | None = None) -> dict[Any, Any]:
    """collections.OrderedDict. Takes the pairs out of the list, so that a file has them copied once only."""
    made: dict[Any, Any] = {}
    if pairs is not None:
        _update(made, pairs)
        pairs.clear()
    return made


def _extend(target: Any, items: Iterable[Any]) -> None:
    if not isinstance(target, list):
        raise TypeError("not a list")
    target.extend(items)


def _update(target: Any, pairs: Iterable[Any]) -> None:
    """Keys are text and numbers: the hash of nested tuples may take for ever."""
    if not isinstance(target, dict):
        raise TypeError("not a dictionary")
    for key, value in pairs:
        if not isinstance(key, str | int | float):
            raise TypeError("not a key")
        target[key] = value
