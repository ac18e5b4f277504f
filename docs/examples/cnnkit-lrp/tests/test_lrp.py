import numpy as np
import pytest
from cnnkit_lrp import cnnkit_operations

import cnnkit
from cnnkit.testing import check_operation, check_package

(operation,) = cnnkit_operations()


def network(bias=(), second="Relu"):
    """Two convolutions, a pool, and the means as scores; biases only where they are given."""
    random = np.random.default_rng(0)
    builder = cnnkit.Builder("two")
    op = builder.op
    x = builder.input("input", ["N", 3, 12, 12])
    for number, (channels, inputs, end) in enumerate([(6, 3, "Relu"), (4, 6, second)]):
        kernel = random.normal(size=(channels, inputs, 3, 3)).astype(np.float32)
        biases = [np.full(channels, value, np.float32) for value in bias]
        x = op.Conv(x, kernel, *biases, pads=[1, 1, 1, 1], name=f"conv{number}")
        x = getattr(op, end)(x, name=f"end{number}")
    x = op.GlobalAveragePool(op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], name="pool"), name="mean")
    builder.output(op.Flatten(x, name="scores"), ["N", 4])
    preprocessing = cnnkit.Preprocessing.preset("tf", height=12, width=12)
    return cnnkit.Model.of(builder.model(), preprocessing=preprocessing, name="two")


PICTURE = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)


def relevance(model, **options):
    result = cnnkit.run("lrp", PICTURE, model=model, target="2", **options)
    return result.arrays["relevance"], result.data


def test_package():
    check_package("cnnkit-lrp")


def test_contract(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_operation(operation)


@pytest.mark.parametrize("gamma", [0, 0.25, 100])
def test_without_biases_nothing_is_lost(gamma):
    shared, data = relevance(network(), gamma=gamma)
    assert shared.shape == (12, 12)
    assert data["score"] > 0.1 and shared.sum() == pytest.approx(data["score"], rel=1e-4)


def test_biases_take_their_share():
    shared, data = relevance(network(bias=[0.5]))
    assert 0 < shared.sum() < 0.99 * data["score"]


def test_gamma_0_is_gradient_times_activation():
    model = network()

    def score(builder, tap):
        return {"score": builder.op.ReduceSum(builder.op.Gather(tap("scores"), [2], axis=1), keepdims=0)}

    session = cnnkit.TrainingSession(model, score, ["end0"], taps=["end0"])
    found = session.gradient({"input": model.preprocessing.apply(cnnkit.Image.load(PICTURE)).tensor})
    expected = (found.gradients["end0"] * found.taps["end0"])[0].sum(axis=0)
    np.testing.assert_allclose(relevance(model, gamma=0)[0], expected, rtol=1e-3, atol=1e-5)


def test_a_large_gamma_leaves_only_what_raises_the_score():
    assert relevance(network(), gamma=0)[0].min() < -0.01
    assert relevance(network(), gamma=1e4)[0].min() > -1e-3


def test_a_network_that_it_cannot_take_is_said():
    with pytest.raises(cnnkit.ModelError, match="such as VGG; of 'two' 'conv1' does not"):
        relevance(network(second="Sigmoid"))
