"""An epoch of the small VGG with batch norms against torch: same weights, order, views and optimizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured_classes import pictured_classes

from cnnkit import SGD, AdamW, Augmentation, Context, Dataset, Host, Session, Settings
from cnnkit.host.context import LogReporter
from cnnkit.models.small_vgg import untrained
from cnnkit.plugins.training.course import Course, Plan
from cnnkit.plugins.training.feeding import Feeder
from cnnkit.plugins.training.learner import WholeNetwork
from cnnkit.plugins.training.phases import KernelDecay
from cnnkit.plugins.training.surgery import weights_of, with_head

EPOCHS, BATCH, RATE, SIDE = 1, 4, 0.003, 32


def in_torch(weights: dict[str, Any]) -> Any:
    """The network of the same weights, in training mode, with its parameters by name."""
    import torch
    from torch.nn import functional

    held = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}

    def logits(x: Any) -> Any:
        for block in range(1, 6):
            if block > 1:
                x = functional.max_pool2d(x, 2)
            for layer in (f"block{block}_conv1", f"block{block}_conv2"):
                x = functional.conv2d(x, held[f"{layer}.kernel"], padding=1)
                gamma, beta = held[f"{layer}.gamma"], held[f"{layer}.beta"]
                x = functional.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-3).relu()
        return x.mean((2, 3)) @ held["predictions.kernel"] + held["predictions.bias"]

    return held, logits


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_losses_and_weights_are_those_of_torch(tmp_path: Path, name: str) -> None:
    import torch

    torch.manual_seed(0)
    dataset = Dataset.index(pictured_classes(tmp_path / "things"))
    model = with_head(untrained(), dataset.classes, np.random.default_rng(0))
    unit = model.preprocessing
    model = replace(model, preprocessing=replace(unit, height=SIDE, width=SIDE))
    feeder = Feeder(dataset, model.preprocessing, Augmentation(flip=0.5, rotation=20, colour=0.2), 3)
    context = Context(Host(entries=[]), Settings(threads=1), 3, LogReporter())
    ours: Any = SGD(momentum=0.9, nesterov=True) if name == "sgd" else KernelDecay(AdamW(weight_decay=0.1))
    trained = [weight for layer in weights_of(model, "") for weight in layer.trained]
    learner = WholeNetwork(model, trained, ours, context, feeder, feeder, batch_norm=True)
    held, logits = in_torch({weight: learner.session.read(weight) for weight in trained})

    kernels = [value for value in held.values() if value.ndim > 1]
    vectors = [value for value in held.values() if value.ndim == 1]
    if name == "sgd":
        theirs: Any = torch.optim.SGD(held.values(), lr=RATE, momentum=0.9, nesterov=True)
    else:
        groups = [{"params": kernels, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        theirs = torch.optim.AdamW(groups, lr=RATE)
    rate = theirs.param_groups[0]["lr"]
    wanted = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng((3, epoch)).permutation(len(dataset))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            (x,) = feeder.batches([batch], epoch)
            target = torch.from_numpy(dataset.labels[batch])
            loss = torch.nn.functional.cross_entropy(logits(torch.from_numpy(x)), target, label_smoothing=0.1)
            theirs.zero_grad()
            loss.backward()
            theirs.step()
            wanted.append(loss.item())

    found: list[float] = []
    step = learner.step

    def noted(*given: Any) -> Any:
        made = step(*given)
        found.append(made[0])
        return made

    learner.step = noted  # type: ignore[method-assign]
    plan = Plan(EPOCHS, BATCH, lambda step: rate, seed=3, smoothing=0.1)
    list(Course("scratch", learner, plan, dataset, dataset).steps())
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for weight, value in held.items():
        theirs_now, ours_now = value.detach().numpy(), learner.session.read(weight)
        apart = np.linalg.norm(ours_now - theirs_now)  # Adam makes steps of rounding errors, here and there
        assert apart <= 3e-3 * np.linalg.norm(theirs_now), weight
    assert Session(learner.session.trained()).run(next(feeder.batches([[0, 1]], 0)))
