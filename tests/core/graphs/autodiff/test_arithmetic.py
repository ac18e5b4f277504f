"""Rules of elementwise arithmetic."""

import numpy as np
import pytest
from rulecheck import assert_as_torch, assert_slopes


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 4), (3, 1)), ((), (2, 2))])
@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_broadcasting(operator: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    assert_slopes(lambda op, a, b: getattr(op, operator)(a, b), *(random(*shape) for shape in shapes))


@pytest.mark.oracle
def test_as_torch() -> None:
    a, b = (random(*shape).astype(np.float32) for shape in ((2, 3), (3,)))
    assert_as_torch(lambda op, a, b: op.Mul(op.Relu(a), b), lambda a, b: a.relu() * b, a, b)
