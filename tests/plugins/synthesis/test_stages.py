"""Sizes by rule, and pyramids."""

import pytest

from cnnkit import UsageError
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Stage, deadlines, sized, stages


@pytest.mark.parametrize(
    "rule, size",
    [
        ("long:512", (341, 512)),
        ("short:512", (512, 768)),
        ("height:400", (400, 600)),
        ("width:300", (200, 300)),
        ("area:300", (244, 367)),
        ("480x640", (480, 640)),
        ("long:1", (1, 1)),
    ],
)
def test_rules(rule: str, size: tuple[int, int]) -> None:
    assert sized(rule, (1000, 1500)) == size


def test_the_scale_is_that_of_the_sides() -> None:
    assert sized("long:512", (1000, 1500), 0.5) == (170, 256)
    assert sized("area:300", (1000, 1000), 2.0) == (600, 600)
    assert sized("100x200", (1000, 1500), 1.5) == (150, 300)


def test_a_side_that_divides_evenly_is_not_cut_short() -> None:
    """400 · (768 / 1024) and the like come out a hair below in floating point."""
    for height in range(300, 1200):
        assert sized("height:400", (height, 3 * height)) == (400, 1200)
        assert sized("short:300", (height, height)) == (300, 300)


@pytest.mark.parametrize("rule", ["512", "long:0", "long", "640", "big:3", "-5x3", "long:-4"])
def test_no_rule(rule: str) -> None:
    with pytest.raises(UsageError, match="is none; say long:512"):
        sized(rule, (10, 10))


def test_the_pyramid_of_crowsonkb() -> None:
    """Its gen_scales(128, 512): 128, 181, 256, 362, 512; 1000 iterations at the first, 500 at the others."""
    found = stages(Recipe("test", pyramid=128, pyramid_iterations=1000), (384, 512))
    assert [stage.size for stage in found] == [(96, 128), (136, 181), (192, 256), (272, 362), (384, 512)]
    assert [stage.iterations for stage in found] == [1000, 500, 500, 500, 500]
    assert [stage.number for stage in found] == [0, 1, 2, 3, 4]


def test_one_size() -> None:
    whole = [Stage(0, (384, 512), 500)]
    assert stages(Recipe("test"), (384, 512)) == whole
    assert stages(Recipe("test", pyramid=400, pyramid_iterations=9), (384, 512)) == whole


def test_time_is_shared_by_work() -> None:
    found = [Stage(0, (10, 10), 8), Stage(1, (20, 20), 4), Stage(2, (40, 40), 1)]  # 800, 1600, 1600
    assert deadlines(found, 10.0) == [2.0, 6.0, 10.0]
    assert deadlines(found, None) == [None] * 3
