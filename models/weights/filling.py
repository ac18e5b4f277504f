"""Where the numbers of an architecture come from: a file of weights, or a seed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from cnnkit import Model
from cnnkit.models.architecture import Parameter

Family = Literal["keras", "torch", "random"]


class Weights(Protocol):
    """Fills the parameters of an architecture."""

    @property
    def family(self) -> Family:
        """Whose conventions the weights follow: those of the padding and of the preprocessing."""

    def fill(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Parameter, NDArray[Any]]]:
        """Every parameter with its array, in Keras' layout; `torch` has PyTorch's modules by layer.

        Raises ModelError when they do not fit exactly.
        """

    def finish(self, model: Model) -> Model:
        """The model when all is filled in, with what can only be settled by running it."""


def read_weights(text: str | Path) -> Weights:
    """The weights that a text means: "random:SEED", "random:SEED@PICTURE", or the path of a file.

    Raises UsageError for a text that is neither, and ModelError for a file that cannot be read.
    """
    text = str(text)
    if text.startswith("random:"):
        from cnnkit.models.weights.random import RandomWeights

        return RandomWeights.parse(text)
    from cnnkit.models.weights.files import FileWeights

    return FileWeights.open(Path(text))
