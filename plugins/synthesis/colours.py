"""The content's colours in place of the style's.

Gatys, Bethge, Hertzmann and Shechtman 2016, "Preserving Color in Neural Artistic Style Transfer"
(arXiv:1606.05897), and its program, leongatys/NeuralImageSynthesis, ExampleNotebooks/ColourControl.ipynb.

Pixels are (height, width, 3), red, green and blue, 0..255; what comes back is float64 and not clipped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image

Array = NDArray[np.float64]
Pixels = NDArray[Any]
Colours = Literal["luminance", "covariance", "covariance-chol", "covariance-sym", "histogram"]
When = Literal["before", "after"]

REC_601 = (0.299, 0.587, 0.114)
LEAST_VARIANCE = 1e-5 * 255**2
"""What varies less counts as if it varied so much, lest noise be blown up; the program adds it to all."""


# Luminance


def luminance(pixels: Pixels) -> Array:
    """Y (height, width), by Rec. 601."""
    return np.asarray(pixels @ np.array(REC_601))


def with_chroma(pixels: Pixels, coloured: Pixels) -> Array:
    """The luminance of the pixels with the chroma of others of the same size.

    U and V of Y'UV do not change where the same is added to red, green and blue. "Luminance-only transfer"
    of the paper, which paints in grey before; `original_colors` of jcjohnson/neural-style, which does not.
    """
    return np.asarray(coloured + (luminance(pixels) - luminance(coloured))[..., None])


def in_grey(pixels: Pixels) -> Array:
    """The luminance as a picture."""
    return _in_three(luminance(pixels))


def in_grey_like(pixels: Pixels, like: Pixels) -> Array:
    """The luminance with the mean and the deviation of another's, as in the paper (the program: the mean)."""
    own, wanted = luminance(pixels), luminance(like)
    scale = wanted.std() / np.sqrt(max(own.var(), LEAST_VARIANCE))
    return _in_three(wanted.mean() + scale * (own - own.mean()))


def _in_three(levels: Array) -> Array:
    return np.stack([levels] * 3, -1)


# Mean and covariance


def moments(pixels: Pixels) -> tuple[Array, Array]:
    """The mean (3,) and the covariance (3, 3) of the colours."""
    colours = np.asarray(pixels, np.float64).reshape(-1, 3)
    mean = colours.mean(0)
    return mean, (colours - mean).T @ (colours - mean) / len(colours)


def with_moments(pixels: Pixels, like: Pixels, root: str = "pca") -> Array:
    """The pixels in the linear map A·x + b that gives them another's mean and covariance.

    A·S·Aᵀ = C has many solutions. "pca" C^½·S^-½; "chol" the same of Cholesky's roots; "sym" the one that
    moves the colours least, S^-½·(S^½·C·S^½)^½·S^-½. "Color histogram matching" of the paper, `match_color`
    of the program.
    """
    (mean, own), (wanted_mean, wanted) = moments(pixels), moments(like)
    return (pixels - mean) @ _map(own, wanted, root).T + wanted_mean


def _map(own: Array, wanted: Array, root: str) -> Array:
    from_own = _root(own, LEAST_VARIANCE)
    back = np.linalg.inv(from_own)
    if root == "chol":
        return np.asarray(_triangular(_root(wanted)) @ np.linalg.inv(_triangular(from_own)))
    if root == "sym":
        return np.asarray(back @ _root(from_own @ wanted @ from_own) @ back)
    return np.asarray(_root(wanted) @ back)


def _root(covariance: Array, least: float = 0.0) -> Array:
    """The symmetric square root; of variances below the least, as if they were it."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(values.clip(least)) @ vectors.T)


def _triangular(root: Array) -> Array:
    """Cholesky's root of the same covariance; also where it is singular."""
    _, upper = np.linalg.qr(root)
    return np.asarray(upper.T * np.where(np.diag(upper) < 0, -1, 1))


# Histograms


def with_histograms(pixels: Pixels, like: Pixels) -> Array:
    """The pixels with the histograms of another's red, green and blue.

    Each level becomes the mean of those that have its ranks in the other picture. Where no level comes
    twice that is the exact histogram; `skimage.exposure.match_histograms` takes the last of the ranks.
    """
    channels = [_matched(pixels[..., channel], like[..., channel]) for channel in range(3)]
    return np.stack(channels, -1)


def _matched(levels: Pixels, like: Pixels) -> Array:
    _, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    ends = np.append(0, counts.cumsum()) / levels.size
    sums = np.append(0, np.sort(like, None).cumsum(dtype=np.float64)) / like.size
    up_to = np.interp(ends, np.linspace(0, 1, len(sums)), sums)
    return np.asarray((np.diff(up_to) / np.diff(ends))[place].reshape(levels.shape))


# In a style transfer


Recolour = Callable[[Pixels, Pixels], Array]

LIKE: Mapping[Colours, Recolour] = {
    "luminance": in_grey_like,
    "covariance": with_moments,
    "covariance-chol": partial(with_moments, root="chol"),
    "covariance-sym": partial(with_moments, root="sym"),
    "histogram": with_histograms,
}


@dataclass(frozen=True, eq=False)
class ContentColours:
    """The colours of a content picture are kept, as it is seen on white.

    "before" the styles take them, and what is painted has them; with "luminance" it is painted in grey.
    "after" what is painted takes them. The content's chroma is always put on afterwards.
    """

    content: Image
    kind: Colours
    when: When

    def painted(self, styles: Sequence[Image]) -> tuple[Image, list[Image]]:
        """The content and the styles that are to be painted with."""
        if self.when == "after":
            return self.content, list(styles)
        content = self.content
        if self.kind == "luminance":
            content = content.with_pixels(_levels(in_grey(content.pixels)))
        recolour, like = LIKE[self.kind], self.content.flattened().pixels
        flat = [style.flattened() for style in styles]
        return content, [style.with_pixels(_levels(recolour(style.pixels, like))) for style in flat]

    def shown(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is shown for pixels that were painted."""
        content = self.content.flattened()
        if self.kind == "luminance":
            return _levels(with_chroma(pixels, content.resized(*pixels.shape[:2]).pixels))
        return _levels(LIKE[self.kind](pixels, content.pixels)) if self.when == "after" else pixels


def _levels(pixels: Array) -> NDArray[np.uint8]:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)
