"""The picture of a spectrum, against numpy's transform."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import Builder
from cnnkit.plugins.visualisation.parametrisation import CORRELATED, Parametrisation
from cnnkit.runtime.device import onnxruntime


def picture(parametrisation: Parametrisation, numbers: NDArray[Any]) -> NDArray[Any]:
    b = Builder()
    b.output(parametrisation.picture(b.op, b.input("numbers", parametrisation.shape)))
    session = onnxruntime().InferenceSession(
        b.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"numbers": numbers})[0])


def before_the_sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    return np.log(values / (1 - values))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (16, 5), (5, 16), (1, 6)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_spectrum_is_transformed_back_as_by_numpy(size: tuple[int, int], depth: int) -> None:
    """Lucid's `fft_image`: irfft2(spectrum · √(height · width) / max(frequency, 1/longer side)) / 4."""
    made = Parametrisation(size, depth, colours="plain")
    numbers = 0.3 * np.random.default_rng(0).standard_normal(made.shape).astype(np.float32)
    real, imaginary = np.split(numbers[0].astype(np.float64), 2, axis=-1)
    frequencies = np.sqrt(np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.rfftfreq(size[1])[None] ** 2)
    scale = np.sqrt(size[0] * size[1]) / np.maximum(frequencies, 1 / max(size))
    expected = np.fft.irfft2((real + 1j * imaginary) * scale, size) / 4
    found = before_the_sigmoid(picture(made, numbers).astype(np.float64))[0]
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


def test_the_colours_of_lucid() -> None:
    """Its matrix, divided by the length of the longest column, 0.4619; out of each pixel's three numbers."""
    np.testing.assert_allclose(CORRELATED[:, 0], [0.5629, 0.5845, 0.5845], atol=1e-3)
    made = Parametrisation((2, 3), numbers="pixels")
    numbers = np.random.default_rng(0).standard_normal(made.shape).astype(np.float32)
    expected = np.einsum("rc,bchw->brhw", CORRELATED, numbers)
    np.testing.assert_allclose(before_the_sigmoid(picture(made, numbers)), expected, atol=1e-5)


def test_plain_pixels_are_a_sigmoid_away() -> None:
    made = Parametrisation((2, 3), 1, "pixels", "plain")
    numbers = np.linspace(-3, 3, 6, dtype=np.float32).reshape(made.shape)
    np.testing.assert_allclose(picture(made, numbers), 1 / (1 + np.exp(-numbers)), rtol=1e-6)


@pytest.mark.parametrize("numbers", ["fourier", "pixels"])
def test_it_begins_with_nearly_grey_noise(numbers: Any) -> None:
    made = Parametrisation((32, 32), numbers=numbers)
    seen = picture(made, made.first(np.random.default_rng(0)))
    assert abs(seen.mean() - 0.5) < 0.02
    assert 0.0005 < seen.std() < 0.05
