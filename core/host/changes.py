"""What is done to a network before it is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnkit.graphs.model import Model


@dataclass(frozen=True)
class Changes:
    """Cut it at the layer `to`, fold batch norms into the layers before them, store kernels as float16."""

    to: str | None = None
    fold: bool = False
    float16: bool = False

    def apply(self, model: "Model") -> "Model":
        """The changed network. Raises UsageError for a layer that it has not."""
        from cnnkit.graphs import reshaping

        if self.to is not None:
            model = reshaping.cut(model, self.to)
        if self.fold:
            model = reshaping.folded(model)
        if self.float16:
            model = reshaping.stored_as_float16(model)
        return model

    def __str__(self) -> str:
        return ", ".join(self._words()) or "whole"

    def _words(self) -> Iterator[str]:
        if self.to is not None:
            yield f"to {self.to}"
        if self.fold:
            yield "batch norms folded"
        if self.float16:
            yield "float16"
