"""Ctrl-C between two moves: in the middle of one, what was counted and what was moved would not agree."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")


def whole(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; a Ctrl-C while one is being made is raised when it is there, a second one at once."""
    iterator = iter(items)
    while True:
        with _held_back():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


@contextmanager
def _held_back() -> Iterator[None]:
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    waiting: list[tuple[Any, ...]] = []

    def wait(*arguments: Any) -> None:
        if waiting:
            usual(*arguments)
        waiting.append(arguments)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if waiting:
        usual(*waiting[0])
