"""Training sessions: gradients by hand and by torch, steps that never leave the device, files that go on."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from cnnkit import (
    SGD,
    Builder,
    Model,
    ModelError,
    OutputError,
    Preprocessing,
    TrainingSession,
    UsageError,
)
from cnnkit.graphs.tensors import Tensor

Tap = Callable[[str], Tensor]
Array = NDArray[Any]


def line() -> Model:
    """y = 3 x0 + 5 x1 over pictures of one channel and two pixels, as a dense layer."""
    b = Builder("line")
    x = b.op.Flatten(b.input("input", ("batch", 1, 1, 2)))
    weight = b.constant(np.array([[3], [5]], np.float32), "weight")
    b.output(b.op.Gemm(x, weight, b.constant(np.zeros(1, np.float32), "bias"), name="y"))
    return Model.of(b.model())


def squared_error(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
    """Half the sum of squares of y - target."""
    wrong = b.op.Sub(tap("y"), b.input("target", ("batch", 1)))
    return {"error": b.op.Mul(b.op.ReduceSum(b.op.Mul(wrong, wrong), keepdims=0), 0.5)}


PICTURES = np.array([[1, 2], [0, 1]], np.float32).reshape(2, 1, 1, 2)
TARGETS = np.array([[12], [5]], np.float32)  # y is 13 and 5: wrong by 1 and 0


def test_gradients_by_hand() -> None:
    session = TrainingSession(line(), squared_error, ["input", "weight", "bias", "y"], taps=["y"])
    losses, gradients, taps = session.gradient({"input": PICTURES, "target": TARGETS})
    assert losses == {"error": 0.5, "total": 0.5}
    assert taps["y"].tolist() == [[13], [5]]
    assert gradients["y"].tolist() == [[1], [0]]
    assert gradients["weight"].tolist() == [[1], [2]]
    assert gradients["bias"].tolist() == [1]
    assert gradients["input"].reshape(2, 2).tolist() == [[3, 5], [0, 0]]


def test_the_loss_is_the_sum_of_its_parts() -> None:
    def parts(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        total = b.op.ReduceSum(tap("y"), keepdims=0)
        return {"one": total, "two": b.op.Mul(total, b.input("factor", ()))}

    session = TrainingSession(line(), parts, ["bias"])
    losses, gradients, _ = session.gradient({"input": PICTURES, "factor": 10})
    assert losses == {"one": 18, "two": 180, "total": 198}
    assert gradients["bias"].tolist() == [22]


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.5), SGD(0.1, 0.5, True, 0.25)])
def test_steps_are_those_of_the_formula(optimizer: SGD) -> None:
    session = TrainingSession(line(), squared_error, ["weight"], optimizer)
    weight, velocity = np.array([3.0, 5.0]), np.zeros(2)
    x, target = PICTURES.reshape(2, 2), TARGETS[:, 0]
    for rate in (0.1, 0.1, 0.05):
        wrong = x @ weight - target
        losses = session.step({"input": PICTURES, "target": TARGETS, "learning_rate": rate})
        assert losses["total"] == pytest.approx(0.5 * (wrong**2).sum(), rel=1e-5)
        slope = x.T @ wrong + optimizer.weight_decay * weight
        velocity = optimizer.momentum * velocity + slope
        weight = weight - rate * (slope + optimizer.momentum * velocity if optimizer.nesterov else velocity)
        assert session.read("weight")[:, 0] == pytest.approx(weight, rel=1e-5)


def test_the_picture_as_parameter() -> None:
    session = TrainingSession(line(), squared_error, ["input"], SGD(0.01))
    session.write("input", PICTURES[:1])
    for _ in range(200):
        losses = session.step({"target": TARGETS[:1]})
    assert losses["total"] < 1e-6
    assert session.read("input").ravel() @ [3, 5] == pytest.approx(12, abs=1e-3)


def test_frozen_weights_cost_nothing() -> None:
    def operators(wrt: str) -> list[str]:
        graph = TrainingSession(line(), squared_error, [wrt]).graph
        return [node.op_type for node in graph.model(graph.gradients).graph.node]

    assert operators("bias").count("Gemm") + operators("bias").count("MatMul") == 1
    assert operators("input").count("Gemm") + operators("input").count("MatMul") == 2


def small(dropout: float = 0.0) -> Model:
    """conv -> batch norm -> relu -> pool -> dropout -> dense, in float32."""
    random = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Tensor:
        return b.constant((0.3 * random.standard_normal(shape)).astype(np.float32), name)

    b = Builder("small")
    x = b.input("input", ("batch", 1, 8, 8))
    x = b.op.Conv(x, weight("kernel", 6, 1, 3, 3), weight("conv.bias", 6), pads=[1, 1, 1, 1], name="conv")
    mean, variance = (
        b.constant(np.zeros(6, np.float32), "mean"),
        b.constant(np.ones(6, np.float32), "variance"),
    )
    scale = b.constant(np.ones(6, np.float32), "scale")
    x = b.op.BatchNormalization(x, scale, weight("shift", 6), mean, variance, momentum=0.9, name="norm")
    x = b.op.MaxPool(b.op.Relu(x, name="relu"), kernel_shape=[2, 2], strides=[2, 2], name="pool")
    x = b.op.Flatten(x, name="flatten")
    if dropout:
        x = b.op.Dropout(x, np.float32(dropout), name="dropout")
    b.output(b.op.Gemm(x, weight("dense", 10, 96), weight("dense.bias", 10), transB=1, name="logits"))
    return Model.of(b.model())


def cross_entropy(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
    """Mean over the batch of -log of the probability of the right class."""
    label = b.input("label", ("batch",), np.int64)
    logs = b.op.GatherElements(b.op.LogSoftmax(tap("logits"), axis=1), b.op.Unsqueeze(label, [1]), axis=1)
    return {"cross_entropy": b.op.Neg(b.op.ReduceMean(logs, keepdims=0))}


TRAINED = ["kernel", "conv.bias", "scale", "shift", "dense", "dense.bias"]


def batches(count: int, size: int = 16) -> list[dict[str, Array]]:
    random = np.random.default_rng(2)
    return [
        {
            "input": random.standard_normal((size, 1, 8, 8)).astype(np.float32),
            "label": random.integers(0, 10, size),
        }
        for _ in range(count)
    ]


def states(session: TrainingSession) -> dict[str, Array]:
    return {name: session.read(name) for name in session.state}


def test_save_and_restore_go_on_bit_for_bit(tmp_path: Path) -> None:
    def new() -> TrainingSession:
        return TrainingSession(
            small(dropout=0.5), cross_entropy, TRAINED, SGD(0.1, 0.9), training=True, seed=3
        )

    first = new()
    for feeds in batches(3):
        first.step(feeds)
    first.save(tmp_path / "state.npz")
    wanted = [first.step(feeds) for feeds in batches(3)]
    second = new()
    second.restore(tmp_path / "state.npz")
    assert [second.step(feeds) for feeds in batches(3)] == wanted
    for name, value in states(first).items():
        assert (states(second)[name] == value).all(), name
    assert set(TRAINED) | {"mean", "variance"} < set(first.state)


def test_a_step_moves_what_it_should_and_nothing_else() -> None:
    session = TrainingSession(small(), cross_entropy, ["dense"], SGD(0.1), training=False)
    session.step(batches(1)[0])
    trained = session.trained().graph
    for name in [*TRAINED, "mean", "variance"]:
        before, after = small().graph.constant(name), trained.constant(name)
        assert (before == after).all() == (name != "dense"), name


def test_running_statistics_are_those_of_the_definition() -> None:
    session = TrainingSession(small(), cross_entropy, ["scale"], SGD(0.0), training=True)
    feeds = batches(1)[0]
    session.step(feeds)
    kernel, bias = small().graph.constant("kernel"), small().graph.constant("conv.bias")
    padded = np.pad(feeds["input"], ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    values = np.einsum("nchwij,mcij->nmhw", windows, kernel) + np.reshape(bias, (1, 6, 1, 1))
    assert session.read("mean") == pytest.approx(0.1 * values.mean((0, 2, 3)), abs=1e-6)
    assert session.read("variance") == pytest.approx(0.9 + 0.1 * values.var((0, 2, 3)), rel=1e-5)


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    def mean(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        return {"mean": b.op.ReduceMean(tap("dropout"), keepdims=0)}

    session = TrainingSession(small(dropout=0.25), mean, ["flatten"], training=True)
    (gradient,) = session.gradient({"input": batches(1, 200)[0]["input"]}).gradients.values()
    kept = gradient != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    assert gradient[kept] == pytest.approx(1 / 0.75 / gradient.size, rel=1e-5)


def test_an_exported_session_needs_no_cnnkit(tmp_path: Path) -> None:
    session = TrainingSession(small(), cross_entropy, TRAINED, SGD(0.1, 0.9), training=True)
    first, second = batches(2)
    session.step(first)
    session.export(tmp_path / "training.onnx")
    gradients = session.gradient(second).gradients
    losses = session.step(second)
    np.savez(tmp_path / "feeds.npz", learning_rate=np.float32(0.1), **second)
    script = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession("training.onnx", providers=["CPUExecutionProvider"])
values = session.run(None, dict(numpy.load("feeds.npz")))
numpy.savez("results.npz", **{o.name.replace("/", "|"): v for o, v in zip(session.get_outputs(), values)})
assert not any(name.startswith("cnnkit") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    results = np.load(tmp_path / "results.npz")
    assert float(results["loss|total"]) == pytest.approx(losses["total"], rel=1e-6)
    for name in TRAINED:
        assert results[f"gradient|{name}"] == pytest.approx(gradients[name], rel=1e-5, abs=1e-7)
        assert results[f"{name}|next"] == pytest.approx(session.read(name), rel=1e-6, abs=1e-7)
    onnx.checker.check_model(onnx.load(tmp_path / "training.onnx"), full_check=True)


@pytest.mark.parametrize(
    "act, sentence",
    [
        (lambda s: s.gradient({"input": PICTURES}), "is fed input, target; missing: target"),
        (lambda s: s.gradient({"input": PICTURES, "target": TARGETS, "x": 1}), "unknown: x"),
        (lambda s: s.step({"input": PICTURES, "target": TARGETS}), "has no optimizer"),
        (lambda s: s.read("nose"), "holds no 'nose'; it holds weight"),
        (lambda s: s.gradient({"input": PICTURES, "weight": 1}), "'weight' lives in the session"),
        (lambda s: s.gradient({"input": PICTURES * 1j, "target": 1}), "'input' takes float32; .* complex64"),
        (lambda s: s.gradient({"input": "abc", "target": TARGETS}), "'input' takes float32"),
        (lambda s: s.gradient({"input": [[1], [1, 2]], "target": TARGETS}), "'input' is no array"),
        (lambda s: TrainingSession(line(), squared_error, ["weigth"]), "Did you mean 'weight'"),
        (lambda s: TrainingSession(line(), squared_error, ["y"], size=(2, 2)), "of height 1, not 2"),
        (
            lambda s: s.write("weight", np.zeros(3)),
            r"'weight' has the shape \(2, 1\); the value given has \(3,\)",
        ),
        (lambda s: s.restore("nowhere.npz"), "there is no saved state nowhere.npz"),
        (lambda s: TrainingSession(line(), squared_error, ["nose"]), "no layer is called 'nose'"),
        (lambda s: TrainingSession(line(), squared_error, ["y"], SGD()), "'y' is computed by the network"),
    ],
)
def test_a_sentence_for_what_cannot_be_done(act: Callable[[TrainingSession], object], sentence: str) -> None:
    session = TrainingSession(line(), squared_error, ["weight"])
    with pytest.raises(UsageError, match=sentence):
        act(session)


def test_what_another_session_saved_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    session = TrainingSession(line(), squared_error, ["weight"], SGD(0.1))
    (tmp_path / "text.npz").write_text("no zip")
    other = TrainingSession(line(), squared_error, ["bias"], SGD(0.1)).save(tmp_path / "other.npz")
    for path, sentence in [(tmp_path / "text.npz", "is no saved state"), (other, "saved by another session")]:
        with pytest.raises(UsageError, match=sentence):
            session.restore(path)
    with pytest.raises(OutputError):
        session.save(tmp_path / "no" / "folder.npz")
    assert session.read("weight").tolist() == [[3], [5]]


def test_what_onnx_runtime_refuses_is_one_sentence() -> None:
    session = TrainingSession(line(), squared_error, ["weight"])
    with pytest.raises(ModelError, match=r"ONNX Runtime failed on 'model' with .*target \(3, 1\)"):
        session.gradient({"input": PICTURES, "target": np.zeros((3, 1))})


class Remembers:
    """An optimizer that reads its slots after they could be written: last gradient, last parameter."""

    settings: Mapping[str, float] = {"learning_rate": 0.1}

    def slots(self, parameter: Array) -> Mapping[str, Array]:
        return {"gradient": np.zeros_like(parameter), "parameter": np.array(parameter)}

    def update(self, op: Any, parameter: Any, gradient: Any, slots: Any, settings: Any) -> Any:
        step = op.Mul(op.Add(gradient, slots["gradient"]), settings["learning_rate"])
        ahead = op.Sub(parameter, slots["parameter"])
        return op.Add(op.Sub(parameter, step), op.Mul(ahead, 0.5)), {
            "gradient": gradient,
            "parameter": parameter,
        }


def test_a_convolution_is_rewritten_by_name() -> None:
    """Nothing is measured, so two sessions agree to the last bit; Winograd's form rounds differently."""
    random = np.random.default_rng(0)
    b = Builder("small")
    kernel = b.constant(random.standard_normal((4, 3, 3, 3)).astype(np.float32), "kernel")
    b.output(b.op.Conv(b.input("input", ("batch", 3, 8, 8)), kernel, pads=[1, 1, 1, 1], name="conv"))
    feeds = {"input": random.standard_normal((1, 3, 8, 8)).astype(np.float32)}

    def found(*rewrites: str) -> tuple[tuple[str, ...], Array]:
        session = TrainingSession(
            Model.of(b.model()),
            lambda b, tap: {"sum": b.op.ReduceSumSquare(tap("conv"), keepdims=0)},
            ["input"],
            rewrites=rewrites,
            batch=1,
            threads=1,
        )
        return session.rewritten, session.gradient(feeds).gradients["input"]

    names, plain = found()
    assert names == ()
    names, rewritten = found("conv", "another")
    assert names == ("conv",)
    assert rewritten == pytest.approx(plain, rel=1e-4, abs=1e-4)
    assert (rewritten != plain).any() and (found(*names)[1] == rewritten).all()


def test_an_optimizer_may_read_old_values_late() -> None:
    def slope(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        return {"three": b.op.Mul(b.op.ReduceMean(tap("y"), keepdims=0), 3.0)}

    session = TrainingSession(line(), slope, ["bias"], Remembers())
    place, before, last = 0.0, 0.0, 0.0
    for _ in range(5):
        session.step({"input": PICTURES})
        place, before, last = place - 0.1 * (3 + last) + 0.5 * (place - before), place, 3.0
        assert session.read("bias") == pytest.approx([place], rel=1e-5)


def test_a_pattern_means_what_is_trained() -> None:
    assert list(TrainingSession(small(0.5), cross_entropy, ["*"], training=True).parameters) == TRAINED
    assert list(TrainingSession(small(), cross_entropy, ["dense*", "scale"]).parameters) == [
        "dense",
        "dense.bias",
        "scale",
    ]
    assert list(TrainingSession(line(), squared_error, "weight").parameters) == ["weight"]


def test_a_trained_network_keeps_what_was_said_of_it() -> None:
    labels = tuple("abcdefghij")
    raw = Preprocessing.preset("raw", height=8, width=8, channels="grey")
    given = replace(small(), preprocessing=raw, labels=labels, name="zoo", licence="MIT")
    trained = TrainingSession(given, cross_entropy, ["dense"], SGD(0.1)).trained()
    assert (trained.preprocessing, trained.labels) == (given.preprocessing, labels)
    assert (trained.name, trained.licence) == ("zoo", "MIT")


def test_a_step_that_fails_changes_nothing() -> None:
    session = TrainingSession(small(), cross_entropy, TRAINED, SGD(0.1, 0.9), training=True)
    feeds = batches(1)[0]
    session.step(feeds)
    before = states(session)
    for wrong in ({"learning_rate": None}, {"learning_rate": [0.1]}, {"label": np.zeros(3)}, {"extra": 1}):
        with pytest.raises(UsageError):
            session.step(feeds | wrong)
    assert all((value == before[name]).all() for name, value in states(session).items())


@pytest.mark.parametrize(
    "returned, sentence",
    [
        (lambda b, tap: {}, "returns a dict of its parts"),
        (lambda b, tap: tap("y"), "returns a dict of its parts"),
        (lambda b, tap: {"total": tap("y")}, "'total' is their sum"),
        (
            lambda b, tap: {"y": tap("y")},
            r"'y' of the loss should be .* scalar, but is the shape \(None, 1\)",
        ),
        (lambda b, tap: {"one": 1.0}, "should be a floating-point scalar, but is 1.0"),
    ],
)
def test_what_is_no_loss(returned: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TrainingSession(line(), returned, ["weight"])


@pytest.mark.oracle
def test_digits_as_torch() -> None:
    """Three epochs over scikit-learn's digits give torch's losses from the same weights in the same order."""
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    pictures = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    model = small()
    value = {name: np.array(model.graph.constant(name)) for name in TRAINED}

    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    with torch.no_grad():
        for parameter, name in zip(net.parameters(), TRAINED, strict=True):
            parameter.copy_(torch.tensor(value[name]))
    sgd = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    session = TrainingSession(model, cross_entropy, TRAINED, SGD(0.1, 0.9), training=True)

    ours, theirs = [], []
    random = np.random.default_rng(0)
    for _ in range(3):
        order = random.permutation(len(labels))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            ours.append(session.step({"input": pictures[chosen], "label": labels[chosen]})["total"])
            loss = nn.functional.cross_entropy(
                net(torch.tensor(pictures[chosen])), torch.tensor(labels[chosen])
            )
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            theirs.append(loss.item())
    assert ours[-1] < 0.2 < ours[0]
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for parameter, name in zip(net.parameters(), TRAINED, strict=True):
        assert session.read(name) == pytest.approx(parameter.detach().numpy(), rel=1e-2, abs=1e-3), name
