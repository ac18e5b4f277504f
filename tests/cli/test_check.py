"""`cnnkit check gradient`: real commands over networks that are right, lack a rule, or have a wrong one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnkit import Builder, Model, Preprocessing
from cnnkit.testing import make_tiny_model

from .conftest import Ended

Run = Callable[..., Ended]

TIMES_TOO_MUCH = """
from cnnkit import hookimpl

@hookimpl
def cnnkit_gradient_rules():
    return {"Relu": lambda op, node, dy, x: (op.Where(op.Greater(x, 0.0), op.Mul(dy, 1.1), 0.0),)}
"""


def unpooled() -> Model:
    """A network with an operator that cnnkit has no rule for, and the package of tests/third_party has."""
    builder = Builder("unpooled")
    op = builder.op
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    x = op.Conv(builder.input("input", ["N", 3, 8, 8]), kernel, pads=[1] * 4, name="conv")
    x, places = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], name="pool", output=["pooled", "places"])
    x = op.MaxUnpool(x, places, kernel_shape=[2, 2], strides=[2, 2], name="unpool")
    builder.output(op.Sigmoid(op.ReduceMean(x, [2, 3], keepdims=0), name="scores"))
    return Model.of(builder.model(), preprocessing=Preprocessing.preset("tf", height=8, width=8))


def test_a_network_that_is_right(cnnkit: Run, tmp_path: Path) -> None:
    make_tiny_model().save(tmp_path / "tiny.onnx")
    done = cnnkit("check", "gradient", "tiny.onnx")
    assert done.code == 0, done.err
    header, *lines = done.out.splitlines()
    assert header.split() == ["layer", "operator", "output", "of", "error", "float32", "verdict"]
    assert [
        line.split()[0] for line in lines
    ] == "conv conv relu pool flatten dense dense probabilities".split()
    assert all(line.endswith("good") for line in lines)
    assert "8 different gradients, which stand for 8: all good" in done.err
    assert "the whole network's slope agrees to" in done.err

    told = json.loads(cnnkit("check", "gradient", "tiny.onnx", "--json", "--seed", "3").out)
    assert told["good"] and told["network"] == "tiny" and told["whole"]["problem"] == ""
    assert all(layer["verdict"] == "good" and layer["error"] < 1e-7 for layer in told["layers"])
    assert all(slope["good"] and slope["error"] < 1e-2 for slope in told["whole"]["slopes"])

    some = json.loads(cnnkit("check", "gradient", "tiny.onnx", "--layer", "re*,-1", "--json").out)
    assert [layer["layer"] for layer in some["layers"]] == ["relu", "probabilities"]
    assert some["whole"] == {"slopes": [], "problem": ""} and some["good"]


def test_the_default_network(cnnkit: Run) -> None:
    told = json.loads(cnnkit("check", "gradient", "default", "--json").out)
    assert told["good"] and len(told["layers"]) > 30


def test_a_missing_rule(cnnkit: Run, acme: Path, tmp_path: Path) -> None:
    unpooled().save(tmp_path / "unpooled.onnx")
    done = cnnkit("check", "gradient", "unpooled.onnx")
    assert done.code == 1 and "1 no rule" in done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("unpool ")]
    assert "no rule: there is no gradient rule for the operator MaxUnpool" in line
    assert "the whole network has no gradient" in done.err
    told = json.loads(cnnkit("check", "gradient", "unpooled.onnx", "--json").out)
    assert not told["good"] and "MaxUnpool" in told["whole"]["problem"]

    brought = cnnkit("check", "gradient", "unpooled.onnx", "--json", sites=(acme,))
    assert brought.code == 0, brought.out + brought.err
    told = json.loads(brought.out)
    layers = {layer["layer"]: layer for layer in told["layers"]}
    assert all(layer["verdict"] == "good" for name, layer in layers.items() if name != "unpool")
    # onnx's reference (1.23) unpools small arrays only; then the whole network's slope has to vouch for it
    assert layers["unpool"]["verdict"] == "good" or "onnx.reference" in layers["unpool"]["reason"]
    assert all(slope["good"] for slope in told["whole"]["slopes"])


def test_a_wrong_rule(cnnkit: Run, tmp_path: Path, write_distribution: Callable[..., Any]) -> None:
    make_tiny_model().save(tmp_path / "tiny.onnx")
    entries = {"cnnkit.gradient_rules": {"Relu": "too_much"}}
    write_distribution(tmp_path / "site", "cnnkit-wrong", entries, {"too_much": TIMES_TOO_MUCH})
    done = cnnkit("check", "gradient", "tiny.onnx", sites=(tmp_path / "site",))
    assert done.code == 1 and "1 wrong" in done.err and "slope is WRONG by" in done.err
    assert [line.split()[0] for line in done.out.splitlines() if "by the gradient" in line] == ["relu"]


def test_what_makes_no_sense(cnnkit: Run, tmp_path: Path) -> None:
    make_tiny_model().save(tmp_path / "tiny.onnx")
    assert cnnkit("check", "gradient", "nowhere.onnx").code == 3
    assert cnnkit("check", "gradient", "tiny.onnx", "--layer", "nowhere").code == 2
    assert cnnkit("check", "gradient", "tiny.onnx", "--input-size", "7").code == 2
    assert "Usage: cnnkit check" in cnnkit("check").out


@pytest.mark.slow
def test_mobilenet(cnnkit: Run, data: Path) -> None:
    done = cnnkit("check", "gradient", data / "weights" / "mobilenet_v2_1.0_224.onnx", "--json")
    told = json.loads(done.out)
    assert done.code == 0 and told["seconds"] < 100
    assert len(told["layers"]) > 100
    assert max(layer["error"] for layer in told["layers"]) < 1e-8
    assert max(layer["error_on_runtime"] for layer in told["layers"]) < 1e-5
    assert all(slope["error"] < 1e-2 for slope in told["whole"]["slopes"])
