"""Ctrl-C waits for the end of a move."""

import signal
from collections.abc import Iterator

import pytest

from cnnkit.plugins.interrupting import whole


@pytest.mark.parametrize("times", [1, 2])
def test_the_present_item_is_made_to_its_end_unless_it_is_asked_twice(times: int) -> None:
    begun, ended, seen = [], [], []

    def items() -> Iterator[int]:
        for number in range(5):
            begun.append(number)
            if number == 2:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            ended.append(number)
            yield number

    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for number in whole(items()):
            seen.append(number)
    assert (begun, seen) == ([0, 1, 2], [0, 1])
    assert ended == ([0, 1, 2] if times == 1 else [0, 1])
    assert signal.getsignal(signal.SIGINT) is usual


def test_nothing_else_changes() -> None:
    assert list(whole(iter("abc"))) == ["a", "b", "c"]
    assert list(whole([])) == []
