"""Random views of pictures, so that a network never sees the same one twice.

Where things are is decided by one affine map, so that a picture is resampled once; then come colours, and a
patch that is erased. Whoever gives the same random generator gets the same view.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from cnnkit.images.preprocessing import LUMINANCE

Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]

ASPECT = math.log(4 / 3)
"""Of the most that a crop's aspect differs from the picture's: torchvision's 3:4 to 4:3."""
ERASED = (0.02, 0.33)
"""The share of the area that is erased: torchvision's RandomErasing."""
ERASED_ASPECT = math.log(3.3)
"""Of the most that its aspect differs from a square."""
GREY = 128


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a picture; as it stands, nothing.

    `flip` is the chance of a mirror image; `rotation` the most degrees to either side; `zoom` z shows sides
    of 1 - z to 1 + z times the picture's (Keras' RandomZoom); `crop` the least share of the area that is
    shown, at aspects of 3:4 to 4:3 (torchvision's RandomResizedCrop). What lies outside is mirrored. `colour`
    c multiplies brightness, contrast and saturation by 1 - c to 1 + c each (ColorJitter); `grey` is the
    chance of a picture without colours, `erase` that of a grey patch on it (RandomErasing).
    """

    flip: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    crop: float = 1.0
    colour: float = 0.0
    grey: float = 0.0
    erase: float = 0.0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) != field.default for field in fields(self))

    def view(self, pixels: Pixels, size: tuple[int, int], random: np.random.Generator) -> Pixels:
        """A view (height, width, 3), of `size` (height, width), of a picture (h, w, 3), both in 0..255."""
        seen = resampled(pixels, self.where(pixels.shape[:2], random), size)
        seen = self._coloured(seen, random)
        return self._erased(seen, random)

    def where(self, picture: tuple[int, ...], random: np.random.Generator) -> Map:
        """The map (2, 3) from a view to the picture: [y, x] there is it times [y, x, 1], each in -1..1."""
        height, width = picture[:2]
        area = random.uniform(self.crop, 1.0)
        stretch = math.exp(random.uniform(-ASPECT, ASPECT) / 2) if self.crop < 1 else 1.0
        down, across = (min(1.0, side) for side in (math.sqrt(area) / stretch, math.sqrt(area) * stretch))
        offset = random.uniform(-1, 1, 2) * (1 - down, 1 - across)
        zoom = 1 + random.uniform(-self.zoom, self.zoom)
        mirrored = -1.0 if random.random() < self.flip else 1.0
        angle = math.radians(random.uniform(-self.rotation, self.rotation))
        cosine, sine, aspect = math.cos(angle), math.sin(angle), width / height
        # Turned as it is seen, in pixels: -1..1 is another length down than across.
        turn = np.array([[cosine, -sine * aspect], [sine / aspect, cosine]])
        window = turn @ np.diag([zoom * down, zoom * across * mirrored])
        return np.concatenate([window, offset[:, None]], axis=1)

    def _coloured(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        brightness, contrast, saturation = random.uniform(1 - self.colour, 1 + self.colour, 3)
        if random.random() < self.grey:
            saturation = 0.0
        if brightness == contrast == saturation == 1.0:
            return pixels
        mean = brightness * pixels.mean((0, 1)) @ LUMINANCE
        matrix = saturation * np.eye(3) + (1 - saturation) * LUMINANCE
        rows = np.insert(contrast * brightness * matrix, 3, (1 - contrast) * mean, axis=1)
        return np.asarray(pillow.fromarray(pixels).convert("RGB", tuple(rows.ravel().tolist())))

    def _erased(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        if random.random() >= self.erase:
            return pixels
        height, width = pixels.shape[:2]
        side = math.sqrt(random.uniform(*ERASED) * height * width)
        stretch = math.exp(random.uniform(-ERASED_ASPECT, ERASED_ASPECT) / 2)
        down, across = min(height, round(side * stretch)), min(width, round(side / stretch))
        top, left = random.integers(0, (height - down + 1, width - across + 1))
        erased = pixels.copy()
        erased[top : top + down, left : left + across] = GREY
        return erased


def resampled(pixels: Pixels, where: Map, size: tuple[int, int]) -> Pixels:
    """The picture (h, w, 3) through a map, as `Augmentation.where` makes one; bilinear, mirrored outside.

    Where a pixel of the view covers several of the picture, these are averaged first.
    """
    reduced = _reduced(pixels, where, size)
    height, width = reduced.shape[:2]
    reach = np.abs(where[:, :2]).sum(1) + np.abs(where[:, 2]) - 1  # beyond the border, which is at 1
    down, across = (
        math.ceil(far / 2 * side) + 1 if far > 1e-9 else 0
        for far, side in zip(reach, (height, width), strict=True)
    )
    if down or across:
        reduced = _mirrored(_mirrored(reduced, down, axis=0), across, axis=1)
    # From pixels of the view to -1..1, through the map, and on to pixels of the picture.
    view = np.array([[2 / size[0], 0, -1], [0, 2 / size[1], -1], [0, 0, 1]])
    picture = np.array([[height / 2, 0, height / 2 + down], [0, width / 2, width / 2 + across]])
    (dy_y, dy_x, y), (dx_y, dx_x, x) = picture @ np.vstack([where, [0, 0, 1]]) @ view
    shown = pillow.fromarray(reduced).transform(
        (size[1], size[0]),
        pillow.Transform.AFFINE,
        (dx_x, dx_y, x, dy_x, dy_y, y),
        pillow.Resampling.BILINEAR,
    )
    return np.asarray(shown)


def _mirrored(pixels: Pixels, margin: int, axis: int) -> Pixels:
    """With a margin at both ends of an axis, in which the picture goes on as its mirror image."""
    side = pixels.shape[axis]
    places = np.arange(-margin, side + margin) % (2 * side)
    return np.asarray(pixels.take(np.minimum(places, 2 * side - 1 - places), axis))


def _reduced(pixels: Pixels, where: Map, size: tuple[int, int]) -> Pixels:
    """The picture in smaller, as far as the view is."""
    across = np.abs(where[:, :2]).max(1) * pixels.shape[:2] / size
    factors = [max(1, int(factor)) for factor in across]
    if factors == [1, 1]:
        return pixels
    return np.asarray(pillow.fromarray(pixels).reduce((factors[1], factors[0])))


def mixed(
    pixels: NDArray[np.float32], targets: NDArray[np.float32], alpha: float, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412): each picture of a batch mixed with another of it.

    `pixels` (N, ...), `targets` (N, C) probabilities; the share of the first is drawn from Beta(alpha,
    alpha), once for the batch.
    """
    share = np.float32(random.beta(alpha, alpha))
    other = random.permutation(len(pixels))
    return share * pixels + (1 - share) * pixels[other], share * targets + (1 - share) * targets[other]
