"""What the tests of the synthesis share: a small network, and a context whose talk is kept."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from small_network import small_network

from cnnkit import Context, Host, Model, Settings


class Listener:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        yield from items

    def transfer(self, chunks: Iterable[bytes], done: int, total: int | None, label: str) -> Iterator[bytes]:
        yield from chunks


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def context(listener: Listener) -> Context:
    return Context(Host(entries=[]), Settings(threads=1), 0, listener)


@pytest.fixture
def network() -> Model:
    return small_network()
