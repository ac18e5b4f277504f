"""How alike two pictures are: both (height, width, 3) uint8 of one size."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LUMINANCE = np.array([0.299, 0.587, 0.114])
RADIUS, DEVIATION = 5, 1.5
"""Of the Gaussian window of 11 pixels."""
STABILISERS = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(picture: Pixels, original: Pixels) -> float:
    """The peak signal-to-noise ratio in dB, 10·log10(255² / mean square); infinite for equal pictures."""
    error = np.square(picture.astype(np.float64) - original).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def structural_similarity(picture: Pixels, original: Pixels) -> float:
    """The mean SSIM of the luminance, 1 for equal pictures (Wang, Bovik, Sheikh and Simoncelli 2004).

    In a Gaussian window, as in the paper; the pictures go on mirrored beyond their borders.
    """
    a, b = picture @ LUMINANCE, original @ LUMINANCE
    mean_a, mean_b = _blurred(a), _blurred(b)
    variances = _blurred(a * a) - mean_a**2 + _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    first, second = STABILISERS
    means = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    return float((means * (2 * covariance + second) / (variances + second)).mean())


def _blurred(values: NDArray[Any]) -> NDArray[Any]:
    window = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * DEVIATION**2))
    padded = np.pad(values, RADIUS, mode="symmetric")
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(padded, window.size, axis)
        padded = windows @ (window / window.sum())
    return padded
