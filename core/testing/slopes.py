"""What is said of a gradient that is wrong."""

from collections.abc import Callable, Iterable

from cnnkit.graphs.autodiff.check import Slope


def assert_right(slopes: Iterable[Slope], where: Callable[[str], str]) -> None:
    """Assert that each gradient was seen and is right; `where` names the place of a tensor in words."""
    for slope in slopes:
        place = where(slope.tensor)
        assert slope.seen, (
            f"{place}: {slope.kinks} of {slope.outputs} outputs are at a kink; move the numbers"
        )
        assert slope.good, (
            f"{place}: the output changes by {slope.measured:.9g}, the gradient says {slope.predicted:.9g}; "
            f"that is wrong by {slope.error:.1e}"
        )
