"""The pictures that every install has."""

import sys

import numpy as np
import pytest

from cnnkit.errors import ImageError
from cnnkit.images import samples
from cnnkit.images.image import Image
from cnnkit.images.samples import SAMPLES, sample


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_loads_under_its_name(name: str) -> None:
    image = Image.load(f"sample:{name}")
    assert (image.name, image.source, image.alpha) == (name, f"sample:{name}", None)
    assert len(image.sha256) == 64
    assert np.array_equal(image.pixels, sample(name).pixels)


def test_the_portrait_is_found_without_importing_matplotlib() -> None:
    loaded = "matplotlib" in sys.modules
    assert sample("portrait").size == (600, 512)
    assert ("matplotlib" in sys.modules) == loaded


def test_the_portrait_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="matplotlib, which is not installed"):
        sample("portrait")


def test_an_unknown_sample_asks_back() -> None:
    with pytest.raises(ImageError, match="Did you mean 'portrait'"):
        Image.load("sample:portrat")


def test_the_drawn_samples_show_what_they_say() -> None:
    shapes, stripes, gradient = (sample(name).pixels for name in ("shapes", "stripes", "gradient"))
    assert shapes[80, 80].tolist() == [210, 40, 40]
    assert shapes[100, 220].tolist() == [40, 160, 60]
    assert shapes[180, 150].tolist() == [40, 70, 200]
    assert shapes[5, 5].tolist() == [255, 255, 255]
    assert stripes.min() < 5 and stripes.max() > 250 and (stripes == stripes[:1]).all()
    changes = np.abs(np.diff(np.sign(stripes[0, :, 0] - 127.5))).astype(bool)
    assert changes[160:].sum() > 2 * changes[:160].sum() > 0
    assert (np.diff(gradient[0, :, 0].astype(int)) >= 0).all()
    assert (np.diff(gradient[:, 0, 1].astype(int)) >= 0).all()
