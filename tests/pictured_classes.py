"""Folders of pictures that a small network learns to tell apart: by colour and by stripes."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "red", "striped")


def pictured_classes(root: Path, each: int = 8, size: int = 24) -> Path:
    """A folder with a folder per class, seeded."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 90, (size, size, 3))
            if name == "striped":
                pixels[:, random.integers(2) :: 2] += 150
            else:
                pixels[..., 0 if name == "red" else 2] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root
