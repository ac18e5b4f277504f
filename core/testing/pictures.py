"""The kinds of pictures that people have."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image as Pillow

from cnnkit import Image


def pictures() -> Iterator[tuple[str, Image]]:
    """Small ones, each with what is special about it."""
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (24, 32, 3), np.uint8)
    turned, exif = io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(photo).save(turned, "JPEG", exif=exif)
    yield "a photograph", Image.load(photo)
    yield "one pixel", Image.load(photo[:1, :1].copy())
    yield "grey", Image.load(photo[..., 0].copy())
    yield "transparent", Image.load(random.integers(0, 256, (24, 32, 4), np.uint8))
    yield "16-bit", Image.load(Pillow.fromarray(photo[..., 0].astype(np.uint16) * 256))
    yield "turned by EXIF", Image.load(turned.getvalue())
    yield "long and thin", Image.load(photo[:2, :].repeat(3, axis=1))
