"""`cnnkit export gradient`: a file that plain ONNX Runtime runs, with the numbers of finite differences."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Ended

Run = Callable[..., Ended]

SCRIPT = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession("grad.onnx", providers=["CPUExecutionProvider"])
random = numpy.random.default_rng(0)
x = random.uniform(-1, 1, (2, 3, 128, 128)).astype(numpy.float32)
score, gradient = session.run(["score", "gradient"], {"input": x})
direction = random.standard_normal(x.shape).astype(numpy.float32)
ahead, behind = (session.run(["score"], {"input": x + step * direction})[0] for step in (1e-3, -1e-3))
numpy.savez("found.npz", measured=(ahead - behind) / 2e-3, predicted=(gradient * direction).sum((1, 2, 3)))
assert not any(name.partition(".")[0] in ("cnnkit", "onnx", "torch") for name in sys.modules)
"""


def test_the_file_runs_without_cnnkit(cnnkit: Run, tmp_path: Path) -> None:
    ended = cnnkit(
        "export", "gradient", "default", "--output", "logits:7", "--wrt", "input", "-o", "grad.onnx"
    )
    assert (ended.code, ended.out, ended.err) == (0, "grad.onnx\n", "")
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    assert found["predicted"] == pytest.approx(found["measured"], rel=2e-2)
    assert np.abs(found["predicted"]).min() > 1e-3


def test_exit_codes(cnnkit: Run, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    for code, said, arguments in [
        (1, "there.onnx is there already", ["default", "-o", "there.onnx"]),
        (1, "its folder does not exist", ["default", "-o", "no/folder.onnx"]),
        (2, "no class is called 'nose'", ["default", "--output", "logits:nose", "-o", "new.onnx"]),
        (2, "no layer is called 'nose'", ["default", "--wrt", "nose", "-o", "new.onnx"]),
        (2, "Missing option", ["default"]),
        (3, "there is no network 'defautl'", ["defautl", "-o", "new.onnx"]),
    ]:
        ended = cnnkit("export", "gradient", *arguments)
        assert (ended.code, ended.out) == (code, "") and said in ended.err, (arguments, ended)
    assert (tmp_path / "there.onnx").read_text() == "mine" and not (tmp_path / "new.onnx").exists()
    assert cnnkit("export", "gradient", "default", "-o", "there.onnx", "--force").code == 0
