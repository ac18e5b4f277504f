"""Whole networks, as torch and Keras export them, have torch's and TensorFlow's output and gradients."""

import importlib.util
from pathlib import Path

import pytest

networks = pytest.importorskip("networks", reason="needs torch, torchvision and onnxscript")
networks_table = pytest.importorskip("networks_table")

CASES = [
    pytest.param(name, exporter, marks=[pytest.mark.slow] if exporter.startswith("new") else [])
    for name in networks.NETWORKS
    for exporter in networks.EXPORTERS
]


def assert_close(comparison: "networks_table.Comparison") -> None:
    """The output, the gradient of the picture, and the gradient of every parameter that the file has kept."""
    assert comparison.output <= networks_table.TOLERANCE
    wrong = {key: e for key, e in comparison.gradients.items() if e > networks_table.TOLERANCE}
    assert not wrong


@pytest.mark.oracle
@pytest.mark.parametrize("name, exporter", CASES)
def test_as_torch(name: str, exporter: str, tmp_path: Path) -> None:
    comparison = networks_table.torchvision(name, exporter, tmp_path)
    assert_close(comparison)
    assert bool(comparison.parameters) == (exporter in networks_table.KEEP_PARAMETERS)
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
@pytest.mark.slow
def test_as_tensorflow(tmp_path: Path) -> None:
    if not all(map(importlib.util.find_spec, ("tensorflow", "keras", "tf2onnx"))):
        pytest.skip("needs tensorflow, keras and tf2onnx")
    for comparison in networks_table.keras(tmp_path):
        assert_close(comparison)
