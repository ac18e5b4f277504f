"""Files that end too early or have a wrong byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_network import (
    Arrays,
    as_torch,
    made,
    read,
    write_arrays,
    write_arrays_old,
    write_keras,
    write_new,
    write_npz,
    write_old,
    write_safetensors,
)

from cnnkit import ModelError

KERAS: dict[str, Callable[[Path, Arrays], Path]] = {
    "old.h5": write_old,
    "new.weights.h5": write_new,
    "whole.keras": write_keras,
    "arrays.npz": write_npz,
}
TORCH: dict[str, Callable[[Path, Arrays], Path]] = {
    "new.pth": write_arrays,
    "old.pth": write_arrays_old,
    "a.safetensors": write_safetensors,
}
SUMMED = {"arrays.npz", "new.pth"}
"""Of these, a checksum finds every wrong number."""


def written(kind: str, folder: Path) -> tuple[Path, bool]:
    """A file, and whether the network has the separable layers."""
    if kind in KERAS:
        return KERAS[kind](folder / kind, made()), True
    return TORCH[kind](folder / kind, as_torch(made(separable=False))), False


@pytest.mark.parametrize("kind", [*KERAS, *TORCH])
def test_every_end_that_comes_too_early_is_found(kind: str, tmp_path: Path) -> None:
    path, separable = written(kind, tmp_path)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 50).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read(path, separable)


@pytest.mark.parametrize("kind", [*KERAS, *TORCH])
def test_a_wrong_byte_is_an_error_or_a_wrong_number(kind: str, tmp_path: Path) -> None:
    path, separable = written(kind, tmp_path)
    whole, expected = path.read_bytes(), made(separable)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= random.integers(1, 256)
        path.write_bytes(damaged)
        try:
            found = read(path, separable)
        except ModelError:
            refused += 1
            continue
        assert {name: array.shape for name, array in found.items()} == {
            name: array.shape for name, array in expected.items()
        }
        if kind in SUMMED:
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert refused
