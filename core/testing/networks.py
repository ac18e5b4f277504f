"""The contract of a network, and a tiny one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cnnkit import Builder, Image, Model, ModelError, Network, Preprocessing, Session
from cnnkit.host.check import complaints_about
from cnnkit.testing.pictures import pictures

LARGE_ENOUGH = 96
"""Pixels along each side of the pictures for a network that takes any size."""


def make_tiny_model() -> Model:
    """The network of the fixture `tiny_model`, whose kernels are identities; its input is 16 by 16 pixels."""
    builder = Builder("tiny")
    op = builder.op
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[range(3), range(3), 1, 1] = 1
    x = builder.input("input", ["N", 3, 16, 16])
    x = op.Relu(op.Conv(x, identity, pads=[1, 1, 1, 1], name="conv"), name="relu")
    x = op.Flatten(op.GlobalAveragePool(x, name="pool"), name="flatten")
    x = op.Gemm(x, 4 * np.eye(3, dtype=np.float32), name="dense")
    builder.output(op.Softmax(x, axis=1, name="probabilities"), ["N", 3])
    preprocessing = Preprocessing.preset("tf", height=16, width=16)
    return Model.of(
        builder.model(), preprocessing=preprocessing, labels=("red", "green", "blue"), name="tiny"
    )


def check_network(network: Network, **shape: Any) -> None:
    """Assert what every network owes its users.

    It says what it is and under which licence. The same weights give the same network, other random ones
    another, and a file that holds no weights is refused. Each layer is found by its name. It takes the kinds
    of pictures that people have, and says finite numbers; a classifier gives each class a probability, and
    has a label for each or none. Its file computes the same. `shape` is given to `build`.
    """
    complaints = complaints_about(network)
    assert not complaints, complaints
    model = _made(network, **shape)
    assert model.sha256 == _made(network, **shape).sha256, "the same weights give another network"
    if network.build:
        another = network.build("random:1", **shape)
        assert model.sha256 != another.sha256, "random:0 and random:1 are the same network"
        _check_refusal(network, **shape)
    assert model.layers, "no layer of it reads the picture"
    for layer in model.layers:
        found = [other.name for other in model.find(layer.name)]
        assert found == [layer.name], f"the name '{layer.name}' means the layers {', '.join(found)}"

    with TemporaryDirectory() as folder:
        _check_answers(model, Model.load(model.save(Path(folder) / "network.onnx")))


def _check_answers(model: Model, stored: Model) -> None:
    """Of a network, and of what its file is loaded as."""
    assert (stored.labels, stored.preprocessing) == (model.labels, model.preprocessing)
    session, other = Session(model), Session(stored)
    for kind, picture in pictures():
        tensor = _input(model, picture)
        outputs, again = session.run(tensor), other.run(tensor)
        for name, values in outputs.items():
            assert np.isfinite(values).all(), f"{kind}: the output '{name}' is not finite"
            same = np.allclose(values, again[name], rtol=1e-5, atol=1e-6)
            assert same, f"{kind}: the output '{name}' of its own file is another"
        if _classes(model):
            shares = model.probabilities.of(session.run(tensor, [model.probabilities.tensor]))[0]
            assert len(model.labels) in (0, len(shares)), (
                f"{len(model.labels)} labels for {len(shares)} classes"
            )
            assert (shares >= 0).all() and (shares <= 1).all(), f"{kind}: {shares} are no probabilities"


def _made(network: Network, **shape: Any) -> Model:
    if network.locate:
        return Model.load(network.locate())
    assert network.build
    return network.build("random:0", **shape)


def _check_refusal(network: Network, **shape: Any) -> None:
    assert network.build
    with TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.weights"
        wrong.write_bytes(b"these are no weights")
        try:
            network.build(wrong, **shape)
        except Exception as error:  # the host makes one line of whatever it is
            assert str(error), f"a file that holds no weights is refused by an empty {type(error).__name__}"
        else:
            raise AssertionError("a file that holds no weights is taken for weights")


def _input(model: Model, picture: Image) -> Any:
    wanted = model.preprocessing
    height, width = wanted.height or LARGE_ENOUGH, wanted.width or LARGE_ENOUGH
    return wanted.apply(picture.resized(height, width)).tensor


def _classes(model: Model) -> int:
    """0 for a network that is no classifier."""
    try:
        return model.classes
    except ModelError:
        return 0
