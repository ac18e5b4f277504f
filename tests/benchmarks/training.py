"""Training with cnnkit against torch eager, in interleaved pairs; `gradient.py train` has ResNet-18.

    python tests/benchmarks/training.py small-vgg
    python tests/benchmarks/training.py frozen

small-vgg: a step of the network that `--way scratch` trains, with batch norms, AdamW, batch 32 at 128x128.
frozen: an epoch of a new head on MobileNetV2 at 224x224, from the second on: cnnkit keeps the features, torch
runs the base again without gradients. torch runs with NCHW and with channels-last tensors; both sides are on
the CPU with as many threads. A time is the median of the pairs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH, CLASSES, FEATURES = 32, 10, 1280
WIDTHS = (16, 32, 64, 128, 256)
RIVALS = ("nchw", "channels_last")

Run = Callable[[], float]


def batch(side: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    pictures = random.standard_normal((BATCH, 3, side, side), dtype=np.float32)
    return pictures, random.integers(0, CLASSES, BATCH)


def small_vgg_with_cnnkit(threads: int) -> Run:
    import cnnkit
    from cnnkit.models.small_vgg import untrained
    from cnnkit.plugins.training.learner import Classification
    from cnnkit.plugins.training.surgery import LOGITS, weights_of, with_head

    labels = [str(number) for number in range(CLASSES)]
    model = with_head(untrained(), labels, np.random.default_rng(0))
    trained = [name for layer in weights_of(model, "") for name in layer.trained]
    session = cnnkit.TrainingSession(
        model,
        Classification(),
        trained,
        cnnkit.AdamW(),
        taps=[LOGITS],
        training=True,
        device="cpu",
        threads=threads,
    )
    x, y = batch(128)
    feeds = {"input": x, "target": np.eye(CLASSES, dtype=np.float32)[y], "learning_rate": 1e-3}
    return lambda: session.step(feeds)["total"]


def small_vgg_with_torch(threads: int, layout: str) -> Run:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    layers: list[Any] = []
    before = 3
    for width in WIDTHS:
        layers += [nn.MaxPool2d(2)] if layers else []
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, eps=1e-3)]
            layers += [nn.ReLU(inplace=True)]
            before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)]
    network = nn.Sequential(*layers).to(memory_format=form).train()
    optimizer = torch.optim.AdamW(network.parameters())
    pictures, labels = batch(128)
    x, y = torch.from_numpy(pictures).contiguous(memory_format=form), torch.from_numpy(labels)

    def run() -> float:
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def frozen_with_cnnkit(threads: int) -> Run:
    import cnnkit
    from cnnkit.models.mobilenet_v2 import mobilenet_v2
    from cnnkit.plugins.training.learner import Classification
    from cnnkit.plugins.training.surgery import BIAS, KERNEL, with_head

    model = with_head(mobilenet_v2("random:0"), list(map(str, range(CLASSES))), np.random.default_rng(0))
    loss = Classification(FEATURES)
    session = cnnkit.TrainingSession(
        model, loss, [KERNEL, BIAS], cnnkit.Adam(), device="cpu", threads=threads
    )
    features = np.random.default_rng(0).random((BATCH, FEATURES), dtype=np.float32)
    target = np.eye(CLASSES, dtype=np.float32)[batch(8)[1]]

    def run() -> float:
        logits = features @ session.read(KERNEL) + session.read(BIAS)  # for the accuracy, as `train` does
        return session.step({"fed": features, "target": target})["total"] + 0 * float(logits[0, 0])

    return run


def frozen_with_torch(threads: int, layout: str) -> Run:
    import torch

    torch.set_num_threads(threads)
    operators = torch.library.Library("torchvision", "DEF")  # a wheel without them cannot be imported
    for name in ("nms", "qnms"):
        try:
            operators.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        except RuntimeError:  # this wheel has them
            break
    from torchvision.models import mobilenet_v2

    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    base = mobilenet_v2().features.to(memory_format=form).eval()
    head = torch.nn.Linear(FEATURES, CLASSES)
    optimizer = torch.optim.Adam(head.parameters())
    pictures, labels = batch(224)
    x, y = torch.from_numpy(pictures).contiguous(memory_format=form), torch.from_numpy(labels)

    def run() -> float:
        with torch.inference_mode():
            features = base(x).mean((2, 3))
        loss = torch.nn.functional.cross_entropy(head(features.clone()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


CASES: dict[str, tuple[Callable[[int], Run], Callable[[int, str], Run]]] = {
    "small-vgg": (small_vgg_with_cnnkit, small_vgg_with_torch),
    "frozen": (frozen_with_cnnkit, frozen_with_torch),
}


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in ("cnnkit", "torch", "torchvision", "numpy")))
    print(f"{Path(__file__).stem} {given.case}: batch {BATCH}, {given.threads} threads")
    with_cnnkit, with_torch = CASES[given.case]
    runs = [with_cnnkit(given.threads), *(with_torch(given.threads, form) for form in RIVALS)]
    for run in runs * 2:
        run()
    timed = [[seconds(run) for run in runs] for _ in range(given.pairs)]
    for row in timed:
        print(f"cnnkit {row[0]:.4f} s, torch NCHW {row[1]:.4f} s, channels-last {row[2]:.4f} s")
    nchw, last = (statistics.median(row[0] / row[k] for row in timed) for k in (1, 2))
    print(f"median ratio of the times: {nchw:.3f} to NCHW, {last:.3f} to channels-last")


if __name__ == "__main__":
    main()
