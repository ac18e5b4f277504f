"""Gradients with cnnkit against torch eager, in interleaved pairs: a step of style transfer, a step of
training.

    python tests/benchmarks/gradient.py style
    python tests/benchmarks/gradient.py train

style: VGG19 up to block5_conv2 at 256x256, Gram losses of five layers and a content loss, gradient of the
picture. train: ResNet-18, batch 32 at 64x64, cross-entropy, gradients of all parameters and one step of SGD
with momentum. torch runs with NCHW and with channels-last tensors, both sides on the CPU with as many
threads. A time is the median of the pairs; a peak memory is that of a fresh process, imports included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (2, 512))
STYLE, CONTENT = [f"block{block}_conv1" for block in range(1, 6)], "block5_conv2"
SIZE = {"style": 256, "train": 64}
BATCH = 32
RIVALS = ("nchw", "channels_last")

Run = Callable[[], float]


def vgg19_weights() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Layers up to block5_conv2 with seeded weights (out, in, 3, 3) that keep the activations in range."""
    random = np.random.default_rng(0)
    names = [f"block{b}_conv{c}" for b, (count, _) in enumerate(VGG19, 1) for c in range(1, count + 1)]
    channels = [3, *(width for count, width in VGG19 for _ in range(count))]
    for name, (before, after) in zip(names, pairwise(channels), strict=True):
        scale = np.float32((2 / (9 * before)) ** 0.5)
        yield name, random.standard_normal((after, before, 3, 3), dtype=np.float32) * scale


def pictures(case: str) -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    count = 1 if case == "style" else BATCH
    return random.standard_normal((count, 3, SIZE[case], SIZE[case]), dtype=np.float32)


def vgg19_file(path: Path) -> None:
    import cnnkit

    b = cnnkit.Builder("vgg19")
    x = b.input("input", (1, 3, SIZE["style"], SIZE["style"]))
    for name, weight in vgg19_weights():
        if name.endswith("_conv1") and name != "block1_conv1":
            x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
        x = b.op.Relu(b.op.Conv(x, weight, np.zeros(len(weight), np.float32), pads=[1] * 4), name=name)
    b.output(x)
    cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("raw")).save(path)


def style_with_cnnkit(file: Path, threads: int, rewrites: Any) -> Run:
    import cnnkit

    def loss(b: Any, tap: Any) -> Mapping[str, Any]:
        def mean_square(x: Any) -> Any:
            return b.op.ReduceMean(b.op.Mul(x, x), keepdims=0)

        parts = {CONTENT: mean_square(tap(CONTENT))}
        for layer in STYLE:
            _, channels, height, width = tap(layer).shape
            rows = b.op.Reshape(tap(layer), [channels, height * width])
            gram = b.op.MatMul(rows, b.op.Transpose(rows, perm=[1, 0]))
            parts[f"{layer} style"] = mean_square(b.op.Mul(gram, 1 / (height * width)))
        return parts

    session = cnnkit.TrainingSession(
        cnnkit.Model.load(file), loss, ["input"], batch=1, device="cpu", threads=threads, rewrites=rewrites
    )
    feeds = {"input": pictures("style")}
    return lambda: session.gradient(feeds).losses["total"]


def style_with_torch(threads: int, layout: str) -> Run:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    weights = [(name, torch.from_numpy(w).contiguous(memory_format=form)) for name, w in vgg19_weights()]
    picture = torch.from_numpy(pictures("style")).contiguous(memory_format=form)

    def run() -> float:
        start = x = picture.detach().requires_grad_()
        total = torch.zeros(())
        for name, weight in weights:
            if name.endswith("_conv1") and name != "block1_conv1":
                x = functional.max_pool2d(x, 2)
            x = functional.relu_(functional.conv2d(x, weight, torch.zeros(len(weight)), padding=1))
            if name in STYLE:
                rows = x.flatten(2)[0]
                total = total + (rows @ rows.T / rows.shape[1]).square().mean()
        total = total + x.square().mean()
        torch.autograd.grad(total, start)
        return total.item()

    return run


def resnet18_weights() -> dict[str, NDArray[np.float32]]:
    """Seeded weights under torchvision's names."""
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {}

    def conv_norm(conv: str, norm: str, before: int, after: int, kernel: int) -> None:
        scale = np.float32((2 / (before * kernel * kernel)) ** 0.5)
        shape = (after, before, kernel, kernel)
        weights[f"{conv}.weight"] = random.standard_normal(shape, dtype=np.float32) * scale
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            weights[f"{norm}.{part}"] = np.full(after, value, np.float32)

    conv_norm("conv1", "bn1", 3, 64, 7)
    for stage, (before, after) in enumerate(pairwise((64, 64, 128, 256, 512)), 1):
        for index, first in enumerate((before, after)):
            name = f"layer{stage}.{index}"
            conv_norm(f"{name}.conv1", f"{name}.bn1", first, after, 3)
            conv_norm(f"{name}.conv2", f"{name}.bn2", after, after, 3)
            if first != after:
                conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", first, after, 1)
    weights["fc.weight"] = random.standard_normal((10, 512), dtype=np.float32) * np.float32(0.04)
    weights["fc.bias"] = np.zeros(10, np.float32)
    return weights


def resnet18_in_torch() -> Any:
    """torchvision's network with these weights."""
    import torch

    operators = torch.library.Library("torchvision", "DEF")  # a wheel without them cannot be imported
    for name in ("nms", "qnms"):
        try:
            operators.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        except RuntimeError:  # this wheel has them
            break
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in resnet18_weights().items()}, strict=False
    )
    return network


def labels() -> NDArray[np.int64]:
    return np.random.default_rng(2).integers(0, 10, BATCH)


def resnet18_file(path: Path) -> None:
    import cnnkit

    weights = resnet18_weights()
    b = cnnkit.Builder("resnet18")

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        pad = weights[f"{name}.weight"].shape[2] // 2
        weight = b.constant(weights[f"{name}.weight"], f"{name}.weight")
        return b.op.Conv(x, weight, strides=[stride] * 2, pads=[pad] * 4, name=name)

    def norm(x: Any, name: str) -> Any:
        parts = [
            b.constant(weights[f"{name}.{part}"], f"{name}.{part}")
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        return b.op.BatchNormalization(x, *parts, epsilon=1e-5, momentum=0.9, name=name)

    def block(x: Any, name: str, stride: int) -> Any:
        y = b.op.Relu(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
        y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in weights:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return b.op.Relu(b.op.Add(x, y))

    x = b.input("input", (BATCH, 3, SIZE["train"], SIZE["train"]))
    x = b.op.Relu(norm(conv(x, "conv1", 2), "bn1"))
    x = b.op.MaxPool(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(1, 5):
        for index in range(2):
            x = block(x, f"layer{stage}.{index}", 2 if stage > 1 and not index else 1)
    x = b.op.Flatten(b.op.GlobalAveragePool(x))
    dense = [b.constant(weights[f"fc.{part}"], f"fc.{part}") for part in ("weight", "bias")]
    b.output(b.op.Gemm(x, *dense, transB=1, name="logits"))
    cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("raw")).save(path)


def training_with_cnnkit(file: Path, threads: int, rewrites: Any) -> Run:
    import cnnkit

    def loss(b: Any, tap: Any) -> Mapping[str, Any]:
        label = b.input("label", (BATCH,), np.int64)
        logs = b.op.LogSoftmax(tap("logits"), axis=1)
        chosen = b.op.GatherElements(logs, b.op.Unsqueeze(label, [1]), axis=1)
        return {"cross-entropy": b.op.Neg(b.op.ReduceMean(chosen, keepdims=0))}

    session = cnnkit.TrainingSession(
        cnnkit.Model.load(file),
        loss,
        ["*.weight", "*.bias"],
        cnnkit.SGD(0.01, momentum=0.9),
        training=True,
        batch=BATCH,
        device="cpu",
        threads=threads,
        rewrites=rewrites,
    )
    feeds = {"input": pictures("train"), "label": labels()}
    return lambda: session.step(feeds)["total"]


def training_with_torch(threads: int, layout: str) -> Run:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = resnet18_in_torch().to(memory_format=form).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    x, y = torch.from_numpy(pictures("train")).contiguous(memory_format=form), torch.from_numpy(labels())

    def run() -> float:
        loss = functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


WRITE = {"style": vgg19_file, "train": resnet18_file}
CNNKIT = {"style": style_with_cnnkit, "train": training_with_cnnkit}
TORCH = {"style": style_with_torch, "train": training_with_torch}


def runner(case: str, who: str, file: Path, threads: int) -> Run:
    """`who` is cnnkit-none or cnnkit-measured (rewrites), torch-nchw or torch-channels_last."""
    program, _, form = who.partition("-")
    return CNNKIT[case](file, threads, form) if program == "cnnkit" else TORCH[case](threads, form)


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def own_peak_memory() -> float:
    """MiB, by Linux: `ru_maxrss` would begin with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=list(CNNKIT))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rewrites", choices=["none", "measured"], default="measured")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        run = runner(given.case, given.alone, given.file, given.threads)
        for _ in range(3):
            run()
        print(own_peak_memory())
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        WRITE[given.case](file)
        compare(given.case, file, given.rewrites, given.threads, given.pairs)


def compare(case: str, file: Path, rewrites: str, threads: int, pairs: int) -> None:
    names = "cnnkit onnxruntime-gpu onnxruntime torch torchvision numpy".split()
    print(", ".join(f"{name} {found}" for name in names if (found := installed(name))))
    print(f"{case} at {SIZE[case]}x{SIZE[case]}, {threads} threads, rewrites: {rewrites}")
    ours = runner(case, f"cnnkit-{rewrites}", file, threads)
    theirs = {form: runner(case, f"torch-{form}", file, threads) for form in RIVALS}
    for step in range(2):
        values = [run() for run in (ours, *theirs.values())]
        print(f"loss at step {step}: cnnkit {values[0]:.7g}, torch {values[1]:.7g} and {values[2]:.7g}")

    timed = [[seconds(run) for run in (ours, *theirs.values())] for _ in range(pairs)]
    for row in timed:
        print(f"cnnkit {row[0]:.3f} s, torch NCHW {row[1]:.3f} s, channels-last {row[2]:.3f} s")
    medians = [statistics.median(row[0] / rival for row in timed for rival in [row[i]]) for i in (1, 2)]
    print(f"median ratio of the times: {medians[0]:.3f} to NCHW, {medians[1]:.3f} to channels-last")

    for who in ("cnnkit-none", "cnnkit-measured", *(f"torch-{form}" for form in RIVALS)):
        command = [sys.executable, __file__, case, "--threads", str(threads), "--alone", who]
        command += ["--file", str(file)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"peak memory of {who}: {float(output):.0f} MiB")


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
