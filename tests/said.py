"""A reporter for tests."""

from typing import Any


class Said:
    """Keeps what an operation says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, items: Any, total: int | None, label: str) -> Any:
        yield from items

    def transfer(self, chunks: Any, done: int, total: int | None, label: str) -> Any:
        yield from chunks
