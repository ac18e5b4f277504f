"""What explaining operations share: what is found in a graph is found once."""

import gc
import weakref

import pytest

from cnnkit.plugins.explaining import per_model
from cnnkit.testing import make_tiny_model


def test_a_network_is_gone_through_once_for_each_question() -> None:
    asked = []

    @per_model
    def layers(model: object, size: int) -> int:
        asked.append((model, size))
        return size + 1

    first, second = make_tiny_model(), make_tiny_model()
    assert [layers(first, 1), layers(first, 1), layers(first, 2), layers(second, 1)] == [2, 2, 3, 2]
    assert asked == [(first, 1), (first, 2), (second, 1)]


def test_what_fails_is_asked_again() -> None:
    asked = []

    @per_model
    def refuse(model: object) -> None:
        asked.append(model)
        raise ValueError("no")

    model = make_tiny_model()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            refuse(model)
    assert len(asked) == 2


def test_what_was_found_keeps_no_network_alive() -> None:
    @per_model
    def name(model: object) -> str:
        return "found"

    model = make_tiny_model()
    alive = weakref.ref(model)
    assert name(model) == "found"
    del model
    gc.collect()
    assert alive() is None
