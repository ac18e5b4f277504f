"""What the tests of gradient rules mend in onnx's reference implementation."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from onnx.reference.ops import op_erf


@pytest.fixture(scope="module")
def exact_erf() -> Iterator[None]:
    """Erf in float64: the reference one rounds to float32 whatever it is given (onnx 1.23)."""
    exact = np.vectorize(math.erf, otypes=["d"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_erf.Erf, "_run", lambda self, x: (exact(x).astype(x.dtype),))
        yield
