"""Optimizers: one step by hand, and whole ways on three problems beside torch's and Keras's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import SGD, Adam, AdamW, Averaged, Builder, Clamped, Model, TrainingSession, losses
from cnnkit.graphs.optimizers import Optimizer
from cnnkit.graphs.tensors import Tensor

Array = NDArray[Any]
Tap = Callable[[str], Tensor]


@dataclass(frozen=True)
class Problem:
    """A loss of some weights, for cnnkit and for torch."""

    model: Model
    loss: Callable[[Builder, Tap], Mapping[str, Tensor]]
    weights: Sequence[str]
    feeds: Mapping[str, Array]
    in_torch: Callable[..., Any]

    def session(self, optimizer: Optimizer) -> TrainingSession:
        return TrainingSession(self.model, self.loss, self.weights, optimizer, threads=1)

    def start(self) -> list[Array]:
        return [np.array(self.model.graph.constant(name)) for name in self.weights]


def rosenbrock() -> Problem:
    """100 (y - x²)² + (1 - x)² from (-1.2, 1)."""
    b = Builder("rosenbrock")
    place = b.constant(np.array([-1.2, 1], np.float32), "place")
    b.output(b.op.Mul(b.input("input", ("batch", 1, 1, 2)), place, name="out"))

    def loss(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        x, y = b.op.Split(b.tensor("place"), [1, 1], axis=0, output=2)
        valley = losses.l2_penalty(b.op, b.op.Sub(y, b.op.Mul(x, x)))
        return {"valley": b.op.Mul(valley, 100.0), "floor": losses.l2_penalty(b.op, b.op.Sub(x, 1.0))}

    return Problem(
        Model.of(b.model()),
        loss,
        ["place"],
        {},
        lambda p: 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2,
    )


def least_squares() -> Problem:
    """|A x - b|² / 30 with columns of very different lengths."""
    random = np.random.default_rng(0)
    lengths = np.logspace(-1, 1, 6)
    rows = (random.standard_normal((30, 6)) * lengths).astype(np.float32)
    target = random.standard_normal((30, 1)).astype(np.float32)
    b = Builder("least squares")
    flat = b.op.Flatten(b.input("input", ("batch", 6, 1, 1)))
    b.output(b.op.MatMul(flat, b.constant(np.zeros((6, 1), np.float32), "x"), name="y"))

    def loss(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        return {"error": losses.mean_squared_error(b.op, tap("y"), b.input("target", ("batch", 1)))}

    def in_torch(x: Any) -> Any:
        import torch

        return (torch.tensor(rows) @ x - torch.tensor(target)).square().mean()

    feeds = {"input": rows.reshape(30, 6, 1, 1), "target": target}
    return Problem(Model.of(b.model()), loss, ["x"], feeds, in_torch)


def network() -> Problem:
    """Convolution, relu, dense layer and cross entropy over noise."""
    random = np.random.default_rng(1)
    shapes = {"kernel": (4, 1, 3, 3), "bias": (4,), "dense": (5, 144)}
    start = {name: (0.3 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    pictures = random.standard_normal((12, 1, 8, 8)).astype(np.float32)
    labels = random.integers(0, 5, 12)
    b = Builder("network")
    kernel, bias, dense = (b.constant(value, name) for name, value in start.items())
    x = b.op.Relu(b.op.Conv(b.input("input", ("batch", 1, 8, 8)), kernel, bias), name="relu")
    b.output(b.op.Gemm(b.op.Flatten(x), dense, transB=1, name="logits"))

    def loss(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        label = b.input("label", ("batch",), np.int64)
        return {"cross_entropy": losses.cross_entropy(b.op, tap("logits"), label)}

    def in_torch(kernel: Any, bias: Any, dense: Any) -> Any:
        import torch

        x = torch.nn.functional.conv2d(torch.tensor(pictures), kernel, bias).relu().flatten(1)
        return torch.nn.functional.cross_entropy(x @ dense.T, torch.tensor(labels))

    return Problem(Model.of(b.model()), loss, list(shapes), {"input": pictures, "label": labels}, in_torch)


PROBLEMS = [rosenbrock, least_squares, network]


def way(problem: Problem, optimizer: Optimizer, steps: int) -> Iterator[list[Array]]:
    """The weights after each step."""
    session = problem.session(optimizer)
    for _ in range(steps):
        session.step(problem.feeds)
        yield [session.read(name) for name in problem.weights]


def test_the_first_step_of_adam_is_the_rate_along_the_sign() -> None:
    """Both corrections take the first mean back to the gradient: the step is rate · g / (|g| + epsilon)."""
    problem = rosenbrock()
    (((x, y),),) = list(way(problem, Adam(0.25, epsilon=0.0), 1))
    assert (x, y) == pytest.approx((-1.2 + 0.25, 1 + 0.25), rel=1e-6)  # the slope is (-215.6, -88)


@pytest.mark.parametrize("epsilon_as, factor", [("torch", 1.0), ("keras", 0.001**0.5)])
def test_where_epsilon_is(epsilon_as: Any, factor: float) -> None:
    """With an epsilon far above the gradient the step is rate · g / epsilon, or that times the correction."""
    ((place,),) = way(rosenbrock(), Adam(1e3, epsilon=1e6, epsilon_as=epsilon_as), 1)
    wanted = np.array([-1.2, 1]) - factor * 1e3 / 1e6 * np.array([-215.6, -88])
    assert place == pytest.approx(wanted, rel=1e-3)


def test_decoupled_decay_shrinks_where_the_gradient_is_zero() -> None:
    problem = least_squares()
    session = problem.session(AdamW(0.1, weight_decay=0.5))
    session.write("x", np.full((6, 1), 2.0))
    session.step({**problem.feeds, "input": np.zeros((30, 6, 1, 1))})
    assert session.read("x") == pytest.approx(2 * 0.95)


def test_the_rate_may_change_at_every_step() -> None:
    session = rosenbrock().session(Adam())
    session.step({"learning_rate": 0.0})
    assert session.read("place") == pytest.approx([-1.2, 1])
    session.step({"learning_rate": 0.5})
    assert session.read("place") == pytest.approx([-0.7, 1.5], rel=1e-5)


def test_adam_goes_on_where_it_stopped(tmp_path: Any) -> None:
    first = network().session(AdamW(0.01))
    feeds = network().feeds
    for _ in range(3):
        first.step(feeds)
    first.save(tmp_path / "state.npz")
    second = network().session(AdamW(0.01))
    second.restore(tmp_path / "state.npz")
    assert float(second.read("bias/steps")) == 3
    assert [second.step(feeds) for _ in range(3)] == [first.step(feeds) for _ in range(3)]


def test_a_clamped_parameter_stays_within() -> None:
    """Rosenbrock's slope at (-1.2, 1) is (-215.6, -88): a step of 0.01 along it leads to (0.956, 1.88)."""
    ((place,),) = way(rosenbrock(), Clamped(SGD(0.01), -1.0, 0.5), 1)
    assert place.tolist() == [0.5, 0.5]
    ((place,),) = way(rosenbrock(), Clamped(SGD(0.01), [-1, -1], np.array([2.0, 1.5])), 1)
    assert place == pytest.approx([0.956, 1.5], rel=1e-5)


def test_equal_limits_make_equal_optimizers() -> None:
    low, high = np.full((1, 3, 1, 1), -1.0), np.ones((1, 3, 1, 1))
    assert Clamped(SGD(), low, high) == Clamped(SGD(), low.copy(), high)
    assert len({Clamped(SGD(), low, high), Clamped(SGD(), low.copy(), high), Clamped(SGD(), low, 2.0)}) == 2


def test_the_average_is_the_weighted_mean_of_all_values() -> None:
    optimizer = Averaged(Clamped(Adam(0.3), -1.3, 3.0), 0.8)
    assert optimizer.settings == {"learning_rate": 0.3}
    session = rosenbrock().session(optimizer)
    places = []
    for count in range(1, 6):
        session.step({})
        places.append(session.read("place").astype(np.float64))
        weights = 0.8 ** np.arange(count)[::-1]
        wanted = (weights[:, None] * places).sum(0) / weights.sum()
        assert session.read("place/average") == pytest.approx(wanted, rel=1e-6)
        assert float(session.read("place/averaged")) == count
    alone = list(way(rosenbrock(), Clamped(Adam(0.3), -1.3, 3.0), 5))
    assert [place.astype(np.float32).tolist() for place in places] == [place.tolist() for (place,) in alone]


def test_a_first_value_can_count_in_the_average() -> None:
    session = rosenbrock().session(Averaged(SGD(0.01), 0.5))
    session.write("place/average", session.read("place"))
    session.write("place/averaged", 1.0)
    first = session.read("place")
    session.step({})
    assert session.read("place/average") == pytest.approx((first + 2 * session.read("place")) / 3, rel=1e-6)


PAIRS = [
    (SGD(2e-3), "SGD", {"lr": 2e-3}),
    (SGD(1e-3, 0.9), "SGD", {"lr": 1e-3, "momentum": 0.9}),
    (
        SGD(1e-3, 0.8, nesterov=True, weight_decay=0.1),
        "SGD",
        {"lr": 1e-3, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    (Adam(0.02), "Adam", {"lr": 0.02}),
    (Adam(0.02, (0.99, 0.9), 0.1), "Adam", {"lr": 0.02, "betas": (0.99, 0.9), "eps": 0.1}),
    (Adam(0.02, weight_decay=0.1), "Adam", {"lr": 0.02, "weight_decay": 0.1}),
    (AdamW(0.02), "AdamW", {"lr": 0.02}),
    (AdamW(0.02, weight_decay=1.0), "AdamW", {"lr": 0.02, "weight_decay": 1.0}),
]


@pytest.mark.oracle
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("ours, name, settings", PAIRS)
def test_ways_as_torch(
    problem: Callable[[], Problem], ours: Optimizer, name: str, settings: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # threads would cost more than they bring, on so little
    posed = problem()
    parameters = [torch.tensor(value, requires_grad=True) for value in posed.start()]
    theirs = getattr(torch.optim, name)(parameters, **settings)
    start = posed.start()
    for weights in way(posed, ours, 40):
        theirs.zero_grad()
        posed.in_torch(*parameters).sum().backward()
        theirs.step()
        for got, parameter in zip(weights, parameters, strict=True):
            want = parameter.detach().numpy()
            assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(weights, start, strict=True))


@pytest.mark.oracle
@pytest.mark.parametrize("ours, name, settings", PAIRS)
def test_the_same_gradients_lead_to_the_same_place(
    ours: Optimizer, name: str, settings: dict[str, Any]
) -> None:
    """On the loss sum(x · target), whose gradient is the target: nothing but the optimizer's own rounding."""
    torch = pytest.importorskip("torch")

    def loss(b: Builder, tap: Tap) -> Mapping[str, Tensor]:
        return {"sum": b.op.ReduceSum(b.op.Mul(b.tensor("x"), b.input("target", (6, 1))), keepdims=0)}

    session = TrainingSession(least_squares().model, loss, ["x"], ours)
    parameter = torch.zeros(6, 1, requires_grad=True)
    theirs = getattr(torch.optim, name)([parameter], **settings)
    random = np.random.default_rng(0)
    for step in range(200):
        gradient = (random.standard_normal((6, 1)) * 10.0 ** random.integers(-6, 6)).astype(np.float32)
        session.step({"target": gradient})
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        want = parameter.detach().numpy()
        assert np.abs(session.read("x") - want).max() <= 2e-6 * np.abs(want).max(), step


def keras_adam(x: Array, rate: float, epsilon: float, decay: float) -> Iterator[Array]:
    """Adam as keras/src/optimizers/adam.py (3.15) computes it, on Rosenbrock's function, in float64."""
    mean, square = np.zeros(2), np.zeros(2)
    for step in range(1, 41):
        g = np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])
        x = x - x * decay * rate
        alpha = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        mean = mean + (g - mean) * (1 - 0.9)
        square = square + (g**2 - square) * (1 - 0.999)
        x = x - mean * alpha / (np.sqrt(square) + epsilon)
        yield x


@pytest.mark.parametrize("epsilon, decay", [(1e-7, 0.0), (1.0, 0.0), (1e-7, 0.1)])
def test_ways_as_keras(epsilon: float, decay: float) -> None:
    ours: Adam = Adam(0.02, epsilon=epsilon, epsilon_as="keras")
    if decay:
        ours = AdamW(0.02, epsilon=epsilon, epsilon_as="keras", weight_decay=decay)
    theirs = keras_adam(np.array([-1.2, 1.0]), 0.02, epsilon, decay)
    for (got,), want in zip(way(rosenbrock(), ours, 40), theirs, strict=True):
        assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras on numpy 2
def test_the_formula_of_keras_is_kerass() -> None:
    keras = pytest.importorskip("keras")
    place = keras.Variable(np.array([-1.2, 1.0]), dtype="float64")
    theirs = keras.optimizers.Adam(0.02, epsilon=1.0)
    for want in keras_adam(np.array([-1.2, 1.0]), 0.02, 1.0, 0.0):
        x, y = np.array(place)
        g = np.array([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)])
        theirs.apply([keras.ops.convert_to_tensor(g)], [place])
        assert np.array(place) == pytest.approx(want, rel=1e-5)
