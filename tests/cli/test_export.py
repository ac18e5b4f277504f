"""`cnnkit export gradient`: a file that plain ONNX Runtime runs, with the numbers of finite differences."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder

from .conftest import Ended

Run = Callable[..., Ended]

SCRIPT = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession("grad.onnx", providers=["CPUExecutionProvider"])
random = numpy.random.default_rng(0)
x = random.uniform(-1, 1, (2, 3, 128, 128)).astype(numpy.float32)
score, gradient = session.run(["score", "gradient"], {"input": x})
direction = gradient / numpy.abs(gradient).mean((1, 2, 3), keepdims=True)
ahead, behind = (session.run(["score"], {"input": x + step * direction})[0] for step in (1e-4, -1e-4))
numpy.savez("found.npz", measured=(ahead - behind) / 2e-4, predicted=(gradient * direction).sum((1, 2, 3)))
assert not any(name.partition(".")[0] in ("cnnkit", "onnx", "torch") for name in sys.modules)
"""


def test_the_file_runs_without_cnnkit(cnnkit: Run, tmp_path: Path) -> None:
    ended = cnnkit(
        "export", "gradient", "default", "--output", "logits:7", "--wrt", "input", "-o", "grad.onnx"
    )
    assert (ended.code, ended.out, ended.err) == (0, "grad.onnx\n", "")
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    assert found["predicted"] == pytest.approx(found["measured"], rel=1e-2)
    assert np.abs(found["predicted"]).min() > 1e-3


NONSENSE = ["--output", "input:1", "--wrt", "Conv_1"]


def write_network_of_any_size(path: Path) -> None:
    builder = Builder()
    picture = builder.input("input", ("batch", 3, "height", "width"))
    kernel = builder.constant(2 * np.eye(3, dtype=np.float32)[:, :, None, None], "kernel")
    convolved = builder.op.Conv(picture, kernel, name="Conv_1")
    builder.output(builder.op.Flatten(builder.op.GlobalAveragePool(convolved)), ("batch", 3))
    path.write_bytes(builder.model().SerializeToString())


def test_to_standard_output(cnnkit: Run, tmp_path: Path) -> None:
    write_network_of_any_size(tmp_path / "any.onnx")
    arguments = ["export", "gradient", "any.onnx", "--output", "logits:1", "--size", "4x8"]
    ended = cnnkit(*arguments, "-o", "-")
    assert ended.code == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["any.onnx"]
    picture = np.ones((1, 3, 4, 8), np.float32)
    score, gradient = ReferenceEvaluator(onnx.load_from_string(ended.stdout)).run(None, {"input": picture})
    assert score == pytest.approx(2) and gradient[0, 1] == pytest.approx(2 / 32)
    assert cnnkit(*arguments, "-o", "new.onnx").out == "new.onnx\n"
    assert (tmp_path / "new.onnx").read_bytes() == ended.stdout


def test_exit_codes(cnnkit: Run, tmp_path: Path) -> None:
    write_network_of_any_size(tmp_path / "any.onnx")
    (tmp_path / "there.onnx").write_text("mine")
    for code, said, arguments in [
        (1, "there.onnx is there already", ["default", "-o", "there.onnx"]),
        (1, "its folder does not exist", ["default", "-o", "no/folder.onnx"]),
        (2, "no class is called 'nose'", ["default", "--output", "logits:nose", "-o", "new.onnx"]),
        (2, "no layer is called 'nose'", ["default", "--wrt", "nose", "-o", "new.onnx"]),
        (2, "does not depend on 'Conv_1'", ["any.onnx", "--size", "8", *NONSENSE, "-o", "new.onnx"]),
        (2, "is a weight", ["any.onnx", "--size", "8", "--output", "kernel", "-o", "new.onnx"]),
        (2, "say --input-size HEIGHTxWIDTH", ["any.onnx", "-o", "new.onnx"]),
        (2, "Missing option", ["default"]),
        (3, "there is no network 'defautl'", ["defautl", "-o", "new.onnx"]),
    ]:
        ended = cnnkit("export", "gradient", *arguments)
        assert (ended.code, ended.out) == (code, "") and said in ended.err, (arguments, ended)
    assert (tmp_path / "there.onnx").read_text() == "mine" and not (tmp_path / "new.onnx").exists()
    assert cnnkit("export", "gradient", "default", "-o", "there.onnx", "--force").code == 0
