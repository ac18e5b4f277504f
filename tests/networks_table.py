"""Gradients of whole networks beside those of torch and TensorFlow: `python tests/networks_table.py PAGE`.

The tests compare one network at a time by `torchvision` and `keras`; the script compares all of them, and
writes the table of docs/networks.md between its two marks.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Model, Session, TrainingSession
from cnnkit.graphs.tensors import Tensor

TOLERANCE = 1e-4
"""Largest error that passes: the largest difference in a tensor, in units of its largest number."""
KEEP_PARAMETERS = ("old-preserve", "new-unoptimized")
"""The exporters that keep every parameter, value for value."""
KERAS = ("xception", "mobilenet_v2")
VERSIONS = (
    "onnxruntime-gpu",
    "onnx",
    "numpy",
    "torch",
    "torchvision",
    "onnxscript",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
)
MARKS = ("<!-- table -->", "<!-- end of table -->")

Array = NDArray[Any]


@dataclass(frozen=True)
class Expected:
    """What another library computes; `gradients`, `input` among them, are of `sum(output * cotangent)`."""

    picture: Array
    cotangent: Array
    output: Array
    gradients: Mapping[str, Array]


@dataclass(frozen=True)
class Comparison:
    """How far a network's numbers are from another library's.

    `nodes` are those of its file, `seconds` the processor's time to write the gradient of all in `gradients`.
    """

    network: str
    exporter: str
    nodes: int
    seconds: float
    output: float
    gradients: Mapping[str, float]

    @property
    def input(self) -> float:
        return self.gradients["input"]

    @property
    def parameters(self) -> Mapping[str, float]:
        return {name: error for name, error in self.gradients.items() if name != "input"}

    @property
    def good(self) -> bool:
        return max(self.output, *self.gradients.values()) <= TOLERANCE


def torchvision(name: str, exporter: Any, folder: Path) -> Comparison:
    """One of torchvision's networks; its file is written into the folder and deleted."""
    import networks

    exported = networks.export(name, exporter, folder)
    theirs = networks.torch_gradients(exported.module, exported.x)
    wanted = {"input": theirs.x}
    if exporter in KEEP_PARAMETERS:
        missing = theirs.parameters.keys() - networks.parameter_names(exported.path, exported.module).keys()
        assert not missing, f"{exporter} lost {', '.join(sorted(missing))}"
        wanted |= theirs.parameters
    expected = Expected(
        exported.x.numpy(),
        theirs.cotangent.numpy(),
        theirs.output.numpy(),
        {key: gradient.numpy() for key, gradient in wanted.items()},
    )
    try:
        return compare(exported.path, expected, name, exporter)
    finally:
        exported.path.unlink()


def keras(folder: Path, python: str = sys.executable) -> list[Comparison]:
    """Keras' networks, written into the folder by a process of its own: TensorFlow and torch do not mix."""
    script = Path(__file__).with_name("keras_networks.py")
    subprocess.run([python, str(script), str(folder)], check=True, capture_output=True)
    return [_keras(folder, name) for name in KERAS]


def _keras(folder: Path, name: str) -> Comparison:
    with np.load(folder / f"{name}.npz") as saved:
        expected = Expected(saved["x"], saved["cotangent"], saved["output"], {"input": saved["gradient"]})
    return compare(folder / f"{name}.onnx", expected, name, "tf2onnx")


def compare(path: Path, expected: Expected, name: str, exporter: str) -> Comparison:
    """Run a file whose output is called `output`, and its gradient."""
    model = Model.load(path, preprocess="raw", fit="squash")
    threads = 1
    output = Session(model, "cpu", threads).run(expected.picture)["output"]
    before = time.process_time()
    session = TrainingSession(
        model, _weighted_output, list(expected.gradients), device="cpu", threads=threads
    )
    seconds = time.process_time() - before
    found = session.gradient({"input": expected.picture, "cotangent": expected.cotangent}).gradients
    return Comparison(
        name,
        exporter,
        len(model.graph.skeleton.graph.node),
        seconds,
        _error(output, expected.output),
        {key: _error(found[key], gradient) for key, gradient in expected.gradients.items()},
    )


def _weighted_output(b: Builder, tap: Any) -> Mapping[str, Tensor]:
    output = tap("output")
    cotangent = b.input("cotangent", output.shape)
    return {"weighted": b.op.ReduceSum(b.op.Mul(output, cotangent), keepdims=0)}


def _error(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape and np.abs(expected).max() > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def rows(comparisons: Iterable[Comparison]) -> list[str]:
    """The lines of a table."""
    lines = [
        "| network | exporter | nodes | gradient written in | output | input | parameters | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for one in comparisons:
        others = one.parameters
        worst = f"{max(others.values()):.0e} of {len(others)}" if others else ""
        lines.append(
            f"| {one.network} | {one.exporter} | {one.nodes} | {one.seconds:.2f} s | {one.output:.0e} "
            f"| {one.input:.0e} | {worst} | {'pass' if one.good else '**fail**'} |"
        )
    return lines


def _versions() -> str:
    installed = {
        entry.metadata["Name"].lower().replace("_", "-"): entry.version
        for entry in importlib.metadata.distributions()
    }
    named = [f"{name} {installed[name]}" for name in VERSIONS if name in installed]
    return f"Python {platform.python_version()}, {', '.join(named)}; {platform.machine()}, one thread."


def _all(folder: Path, names: Sequence[str]) -> Iterable[Comparison]:
    import networks

    for name in networks.NETWORKS:
        for exporter in networks.EXPORTERS:
            if not names or name in names:
                yield _shown(torchvision(name, exporter, folder))
    if not names:
        for comparison in keras(folder):
            yield _shown(comparison)


def _shown(comparison: Comparison) -> Comparison:
    print(rows([comparison])[-1], flush=True)
    return comparison


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the gradients of whole networks.")
    parser.add_argument("page", type=Path, nargs="?", help="the page whose table is written anew")
    parser.add_argument("--networks", nargs="*", default=[], help="only these, of torchvision")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = rows(_all(Path(folder), arguments.networks))
    if arguments.page:
        text = arguments.page.read_text("utf-8")
        inside = "\n".join([MARKS[0], "", *table, "", _versions(), "", MARKS[1]])
        text, count = re.subn(f"{MARKS[0]}.*{MARKS[1]}", lambda _: inside, text, flags=re.DOTALL)
        assert count == 1, f"{arguments.page} has no place for the table"
        arguments.page.write_text(text, "utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
