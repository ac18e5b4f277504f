"""The whole in front of a network: its values, and its gradient against torch's."""

from typing import Any

import numpy as np
import pytest
from small_network import small_network

from cnnkit import Model, Session, TrainingSession
from cnnkit.plugins.visualisation.canvas import PICTURE, canvas
from cnnkit.plugins.visualisation.objective import Objective
from cnnkit.plugins.visualisation.parametrisation import CORRELATED, Parametrisation
from cnnkit.plugins.visualisation.transforms import Motion, view

SIZE = (24, 20)
MOTION = Motion(scale=1.06, degrees=-7.0, down=2, across=-1)
AIMS: Any = pytest.mark.parametrize("aim", ["channel", "neuron", "dream"])


def looked(model: Model, tensor: str, axis: int, aim: Any, motion: Motion, numbers: Any = "fourier") -> Any:
    parametrisation = Parametrisation(SIZE, numbers=numbers)
    objective = Objective(tensor, axis, aim)
    session = TrainingSession(
        canvas(model, tensor, parametrisation), objective, ("input",), taps=(PICTURE,), threads=1
    )
    made = np.random.default_rng(1).standard_normal(parametrisation.shape, np.float32) * np.float32(0.1)
    wanted = {} if aim == "dream" else {"wanted": np.eye(8, dtype=np.float32)[3]}
    return made, session.gradient({"input": made, **view(motion, SIZE), **wanted})


@AIMS
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_it_is_the_network_behind_the_picture(layout: str, aim: Any) -> None:
    """What the graph reaches is what numpy finds in the layer of the network, shown the same picture."""
    model = small_network(layout)
    tensor, axis = ("two", 1) if layout == "nchw" else ("to_nhwc", 3)
    _, found = looked(model, tensor, axis, aim, Motion())
    x = model.preprocessing.to_network(255 * found.taps[PICTURE][0].transpose(1, 2, 0))[None]
    answers = Objective(tensor, axis, aim).reached(Session(model).run(x, [tensor])[tensor])
    assert answers.shape == ((1,) if aim == "dream" else (8,))
    expected = answers[0 if aim == "dream" else 3]
    assert -found.losses["total"] == pytest.approx(expected, rel=1e-5) and expected != 0


@pytest.mark.oracle
@AIMS
@pytest.mark.parametrize("numbers", ["fourier", "pixels"])
def test_the_gradient_of_all_of_it_as_torch(numbers: Any, aim: Any) -> None:
    import torch
    from torch.nn import functional

    model = small_network()
    made, found = looked(model, "two", 1, aim, MOTION, numbers)
    height, width = SIZE

    x = torch.tensor(made, requires_grad=True)
    picture = x
    if numbers == "fourier":
        frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
        scale = (height * width) ** 0.5 / frequencies.clamp(min=1 / max(SIZE))
        real, imaginary = x.split(width // 2 + 1, dim=-1)
        picture = torch.fft.irfft2(torch.complex(real * scale, imaginary * scale), s=SIZE) / 4
    picture = torch.einsum("rc,bchw->brhw", torch.tensor(CORRELATED, dtype=torch.float32), picture)
    picture = torch.sigmoid(picture)

    turn = np.deg2rad(MOTION.degrees)
    rows, columns = np.mgrid[:height, :width]
    y, z = rows - (height - 1) / 2, columns - (width - 1) / 2
    down = (np.cos(turn) * y - np.sin(turn) * z) / MOTION.scale - MOTION.down
    across = (np.sin(turn) * y + np.cos(turn) * z) / MOTION.scale - MOTION.across
    grid = np.stack([across * 2 / (width - 1), down * 2 / (height - 1)], -1)
    grid = torch.tensor(grid[None], dtype=torch.float32)
    view = 0.5 + functional.grid_sample(picture - 0.5, grid, padding_mode="zeros", align_corners=True)
    view = 255 * view[:, [2, 1, 0]] - torch.tensor(model.preprocessing.mean).reshape(1, 3, 1, 1)
    one, two = (model.graph.producers[f"{name}/conv"] for name in ("one", "two"))
    weights = [torch.tensor(np.array(model.graph.constant(name))) for name in (*one.input[1:], two.input[1])]
    features = functional.conv2d(view, weights[0], weights[1], padding=1).relu()
    features = functional.conv2d(functional.max_pool2d(features, 2), weights[2], padding=1).relu()
    reached = {
        "channel": lambda: features[0, 3].mean(),
        "neuron": lambda: features[0, 3, features.shape[2] // 2, features.shape[3] // 2],
        "dream": lambda: features.square().mean(),
    }[aim]()
    reached.backward()

    assert x.grad is not None
    assert -found.losses["total"] == pytest.approx(reached.item(), rel=1e-5)
    expected = -x.grad.numpy()
    assert np.abs(found.gradients["input"] - expected).max() / np.abs(expected).max() < 1e-4
