"""Files of safetensors, as Hugging Face and timm have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cnnkit.models.weights.contents import Contents, Stored, by_name

TYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}


@contextmanager
def read_safetensors(path: Path) -> Iterator[Contents]:
    """The contents of a .safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        arrays = []
        for name in file.keys():
            part = file.get_slice(name)
            dtype = TYPES.get(part.get_dtype(), part.get_dtype())
            arrays.append(Stored(name, tuple(part.get_shape()), dtype, partial(file.get_tensor, name)))
        yield by_name(arrays)
