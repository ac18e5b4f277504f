"""The numbers that are moved, and the picture that they stand for."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Numbers = Literal["fourier", "pixels"]
Colours = Literal["decorrelated", "plain"]

DEVIATION = 0.01
"""Of the numbers at the start."""
CONTRAST = 4.0
"""What Lucid divides the picture of a spectrum by."""
# The root of the covariance of colours in natural photographs, scaled to a largest column of length 1: Lucid.
CORRELATED = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
CORRELATED /= np.linalg.norm(CORRELATED, axis=0).max()


@dataclass(frozen=True)
class Parametrisation:
    """A picture of `size` (height, width) and `depth` 3 (red, green, blue) or 1 (grey), made of numbers.

    "fourier" are real and imaginary parts of its spectrum, where a step changes all frequencies as they occur
    in photographs, coarse ones most; "pixels" the pixels by themselves. Colours are "decorrelated" where a
    number changes what colours of photographs change together, and "plain" where each is by itself. A sigmoid
    keeps the picture between 0 and 1.
    """

    size: tuple[int, int]
    depth: int = 3
    numbers: Numbers = "fourier"
    colours: Colours = "decorrelated"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the numbers: (1, depth, height, width), or (1, depth, height, 2 · (width // 2 + 1)), real and
        imaginary parts of the spectrum side by side."""
        height, width = self.size
        return 1, self.depth, height, 2 * (width // 2 + 1) if self.numbers == "fourier" else width

    def first(self, random: np.random.Generator) -> Array:
        """Numbers to start from: a picture of nearly the same grey everywhere."""
        return DEVIATION * random.standard_normal(self.shape, np.float32)

    def picture(self, op: Any, numbers: Any) -> Any:
        """Appends nodes that turn the numbers into the picture (1, depth, height, width), from 0 to 1."""
        values = numbers if self.numbers == "pixels" else self._transformed_back(op, numbers)
        if self.depth == 3 and self.colours == "decorrelated":
            flat = op.MatMul(CORRELATED.astype(np.float32), op.Reshape(values, [1, 3, -1]))
            values = op.Reshape(flat, [1, 3, *self.size])
        return op.Sigmoid(values)

    def _transformed_back(self, op: Any, numbers: Any) -> Any:
        """The real inverse Fourier transform is linear: one matrix for the rows, one for the columns."""
        height, width = self.size
        spectrum = op.Mul(numbers, np.tile(weights(self.size), 2))
        rows = op.Reshape(op.MatMul(spectrum, row_matrix(width)), [self.depth, height, 2, width])
        parts = op.Reshape(op.Transpose(rows, perm=[0, 2, 1, 3]), [1, self.depth, 2 * height, width])
        return op.MatMul(column_matrix(height), parts)


def weights(size: tuple[int, int]) -> Array:
    """What the spectrum is multiplied by, (height, width // 2 + 1): less the higher the frequency, as in
    photographs."""
    height, width = size
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    scale = np.sqrt(height * width) / np.maximum(frequencies, 1 / max(size))
    return np.asarray(scale / CONTRAST, np.float32)


def row_matrix(width: int) -> Array:
    """From the real and the imaginary half of a row's spectrum to those of its values: (2 · (width // 2 + 1),
    2 · width). What is not in the half, because it is its mirror image, counts with it."""
    half = np.arange(width // 2 + 1)
    waves = np.exp(2j * np.pi * np.outer(half, np.arange(width)) / width) / width
    waves[(half > 0) & (2 * half < width)] *= 2
    return np.block([[waves.real, waves.imag], [-waves.imag, waves.real]]).astype(np.float32)


def column_matrix(height: int) -> Array:
    """From the real and the imaginary part of a column's spectrum to its values: (height, 2 · height)."""
    number = np.arange(height)
    waves = np.exp(2j * np.pi * np.outer(number, number) / height) / height
    return np.hstack([waves.real, -waves.imag]).astype(np.float32)
