"""A context for runs that are interrupted and go on."""

import io
from typing import Any

import numpy as np

from cnnkit import Context, Host, Result, Settings
from cnnkit.host.context import LogReporter


class Stopping(Context):
    """Keeps checkpoints in memory and what is shown, and is interrupted after so many moves."""

    def __init__(self, after: int | None = None, kept: dict[str, Any] | None = None) -> None:
        super().__init__(Host(), Settings(threads=1), 3, LogReporter())
        self.after, self.kept, self.moves = after, kept, 0
        self.shown: list[Result] = []

    def progress(self, items: Any, total: Any = None, label: Any = "") -> Any:
        for item in items:
            yield item
            assert label() if callable(label) else True
            self.moves += 1
            if self.moves == self.after:
                raise KeyboardInterrupt

    def save(self, state: Any) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        buffer.seek(0)
        self.kept = dict(np.load(buffer))

    def restore(self) -> Any:
        return self.kept

    def emit(self, result: Any) -> None:
        self.shown.append(result)
