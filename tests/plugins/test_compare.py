"""Explanations side by side, their likeness, and the tests of an explanation."""

from typing import Any

import numpy as np
import pytest
from explained import classifier, photograph
from hypothesis import given
from hypothesis import strategies as st

import cnnkit
from cnnkit.plugins.compare import cnnkit_operations, parse_methods
from cnnkit.plugins.sanity import shuffled, spearman
from cnnkit.testing import check_operation


def run(picture: Any, model: cnnkit.Model, **options: Any) -> cnnkit.Result:
    return cnnkit.run("compare", picture, model=model, **options)


def test_each_map_is_the_one_of_its_operation() -> None:
    model, pixels = classifier(), photograph(40, 30)
    result = run(pixels, model, methods="cam,saliency:smoothgrad,occlusion", target="dog,cat", seed=3)
    assert result.arrays["classes"].tolist() == [1, 0]
    for place, target in enumerate([1, 0]):
        asked: dict[str, Any] = {"model": model, "target": target, "seed": 3}
        expected = cnnkit.run("saliency", pixels, method="smoothgrad", **asked).arrays["heatmap"][0]
        np.testing.assert_array_equal(result.arrays["saliency.smoothgrad"][place], expected)
        expected = cnnkit.run("cam", pixels, **asked).arrays["heatmap"][0]
        np.testing.assert_array_equal(result.arrays["cam"][place], expected)
    assert set(result.data["correlations"]) == {
        "cam / saliency:smoothgrad", "cam / occlusion", "saliency:smoothgrad / occlusion"
    }  # fmt: skip


def test_the_same_map_twice_is_alike() -> None:
    """Before an average and a dense layer grad-cam is cam."""
    result = run(photograph(12, 10), classifier(), methods="cam,grad-cam:hirescam", target="cat")
    expected = cnnkit.run("cam", photograph(12, 10), model=classifier(), target="cat", sign="positive").arrays
    found = result.arrays["grad-cam.hirescam"]
    np.testing.assert_allclose(found * 120, expected["heatmap"], rtol=1e-3, atol=1e-4)


def test_a_method_that_does_not_suit_leaves_its_place_empty() -> None:
    result = run(photograph(12, 10), classifier("max-pool"), methods="cam,saliency")
    assert list(result.data["failures"]) == ["cam"] and "cnnkit run grad-cam" in result.text
    assert "cam" not in result.arrays and "saliency" in result.arrays
    assert "" in result.pictures


def test_methods_as_people_write_them() -> None:
    assert parse_methods("cam, saliency:guided") == parse_methods(["cam", "saliency:guided"])
    assert parse_methods(["cam,saliency:guided"]) == ("cam", "saliency:guided")  # as the command line has it
    for wrong in ("", "cam,,saliency", []):
        with pytest.raises(ValueError, match="operations with commas"):
            parse_methods(wrong)


def test_what_it_owes_its_users() -> None:
    (operation,) = cnnkit_operations()
    check_operation(operation, methods="cam,saliency:smoothgrad")


# The tests of an explanation


def test_the_correlation_of_ranks() -> None:
    assert spearman(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 1000])) == pytest.approx(1)
    assert spearman(np.array([1, 2, 3]), np.array([-1, -8, -9])) == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / sqrt(4.5 · 5)
    assert spearman(np.array([1, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(np.sqrt(0.9))
    assert spearman(np.zeros(4), np.arange(4)) == 0


@given(st.integers(2, 200), st.integers(0, 2**32 - 1))
def test_the_correlation_of_ranks_does_not_see_monotone_changes(count: int, seed: int) -> None:
    values, other = np.random.default_rng(seed).normal(size=(2, count))
    assert spearman(values, other) == pytest.approx(spearman(np.exp(values), other**3), abs=1e-12)
    assert spearman(values, other) == pytest.approx(-spearman(-values, other), abs=1e-12)


def test_shuffling_keeps_the_numbers_and_spares_the_others() -> None:
    model = classifier("gemm-transposed")
    before = {t.name: model.graph.constant(t.name) for t in model.graph.skeleton.graph.initializer}
    name = next(node.input[1] for node in model.graph.skeleton.graph.node if node.op_type == "Gemm")

    class Dice:
        random = np.random.default_rng(0)

    after = shuffled(model, [name], Dice()).graph  # type: ignore[arg-type]
    for one, values in before.items():
        assert values is not None
        now = after.constant(one)
        assert now is not None and now.shape == values.shape
        assert (now == values).all() == (one != name)
        assert sorted(now.ravel()) == sorted(values.ravel())
