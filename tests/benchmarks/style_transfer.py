"""Style transfer with cnnkit against the same loop in torch eager, on the CPU.

    python tests/benchmarks/style_transfer.py --size 256

VGG19 up to block5_conv2 with random weights, the losses of Gatys' code (style from the first convolution of
each block, content from the last layer), L-BFGS with a fixed step from the content on. First single
iterations, in interleaved pairs; then whole runs, each in a process of its own, with the seconds from its
first import to its end and its peak memory. torch runs with NCHW and with channels-last tensors; what counts
is the better one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STYLE, CONTENT = [f"block{block}_conv1" for block in range(1, 6)], "block5_conv2"
STYLE_WEIGHT, CONTENT_WEIGHT = 1e9, 1e6
"""A million times Gatys', whose network has activations of some hundreds, where these have a mean of 1."""
TORCH = ("torch-nchw", "torch-channels_last")
CNNKIT = ("cnnkit", "cnnkit-frugal")
"""The second with `--max-memory` as small as it goes."""

Losses = Iterator[float]
"""Each next one is an iteration more."""


def pictures(size: int) -> list[NDArray[np.uint8]]:
    """A content and a style, (size, size, 3): smooth shapes, and coarse noise."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(9 * rows * (1 + k) + 7 * columns) * np.cos(5 * columns - k) for k in range(3)]
    coarse = np.random.default_rng(1).integers(0, 256, (size // 4, size // 4, 3), np.uint8)
    return [np.uint8(127 * (np.stack(waves, -1) + 1)), coarse.repeat(4, 0).repeat(4, 1)]


def write_network(folder: Path) -> None:
    """As each program loads it."""
    from onnx import numpy_helper

    from cnnkit.models.vgg import vgg

    model = vgg("vgg19", "random:0", top=False)
    model.save(folder / "network.onnx")
    tensors = model.graph.proto.graph.initializer
    arrays: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    np.savez(folder / "weights.npz", **arrays)


def with_cnnkit(
    folder: Path, size: int, threads: int, optimizer: str, iterations: int, frugal: bool
) -> Losses:
    import cnnkit
    from cnnkit.host.context import LogReporter
    from cnnkit.plugins.style_transfer import easel
    from cnnkit.plugins.synthesis.loop import Synthesis
    from cnnkit.plugins.synthesis.options import StyleTransferOptions

    content, style = (cnnkit.Image(pixels) for pixels in pictures(size))
    options = StyleTransferOptions(
        style=(style,),
        preset="gatys-code",
        content_layers=((CONTENT, 1.0),),
        style_weight=STYLE_WEIGHT,
        content_weight=CONTENT_WEIGHT,
        optimizer=optimizer,  # type: ignore[arg-type]
        size=f"{size}x{size}",
        iterations=iterations,
    )
    settings = cnnkit.Settings(device="cpu", threads=threads, max_memory=1 if frugal else None)
    model = cnnkit.Model.load(folder / "network.onnx")
    context = cnnkit.Context(cnnkit.Host(), settings, 0, LogReporter(), model)
    for moment in Synthesis(easel(content, model, options, context)).moments():
        yield moment.losses["total"]


def with_torch(folder: Path, size: int, threads: int, layout: str) -> Losses:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    with np.load(folder / "weights.npz") as file:
        weights = {name: torch.from_numpy(file[name]) for name in file.files}
    convolutions = sorted(name.removesuffix(".kernel") for name in weights if name.endswith(".kernel"))
    kernels = {name: weights[f"{name}.kernel"].contiguous(memory_format=form) for name in convolutions}

    def features(x: Any) -> dict[str, Any]:
        found = {}
        for name in convolutions[: convolutions.index(CONTENT) + 1]:
            if name.endswith("_conv1") and name != "block1_conv1":
                x = functional.max_pool2d(x, 2)
            x = functional.relu_(functional.conv2d(x, kernels[name], weights[f"{name}.bias"], padding=1))
            if name in (*STYLE, CONTENT):
                found[name] = x
        return found

    def gram(x: Any) -> Any:
        rows = x.flatten(2)[0]
        return rows @ rows.T / rows.shape[1]

    means = np.array([103.939, 116.779, 123.68], np.float32)
    content, style = (
        torch.from_numpy((picture[:, :, ::-1] - means).transpose(2, 0, 1)[None].copy()).contiguous(
            memory_format=form
        )
        for picture in pictures(size)
    )
    with torch.no_grad():
        grams = {name: gram(value) for name, value in features(style).items() if name in STYLE}
        kept = features(content)[CONTENT]
    x = content.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=1)
    losses = []

    def closure() -> Any:
        optimizer.zero_grad()
        found = features(x.contiguous(memory_format=form))
        loss = CONTENT_WEIGHT * (found[CONTENT] - kept).square().mean()
        for name in STYLE:
            share = STYLE_WEIGHT / len(grams[name]) ** 2
            loss = loss + share * (gram(found[name]) - grams[name]).square().mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    while True:
        optimizer.step(closure)
        yield losses[-1]


def losses_of(who: str, given: argparse.Namespace) -> Losses:
    program, _, form = who.partition("-")
    if program == "torch":
        return with_torch(given.folder, given.size, given.threads, form)
    return with_cnnkit(
        given.folder, given.size, given.threads, given.optimizer, given.iterations, form == "frugal"
    )


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    """And what came of it."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def own_peak_memory() -> float:
    """MiB, by Linux: `ru_maxrss` would begin with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def alone(who: str, given: argparse.Namespace, start: float) -> None:
    """A whole run: the loss and the seconds so far of each iteration, and the peak memory."""
    told = []
    for number, loss in enumerate(losses_of(who, given), 1):
        told.append((time.perf_counter() - start, loss))
        if number == given.iterations:
            break
    print(json.dumps({"iterations": told, "peak": own_peak_memory()}))


def steps(given: argparse.Namespace) -> None:
    """Single iterations in turn."""
    who = ("cnnkit", *TORCH)
    runs = {name: losses_of(name, given) for name in who}
    for number in range(3):
        found = [next(run) for run in runs.values()]
        print(f"loss of iteration {number + 1}: " + ", ".join(f"{value:.7g}" for value in found))
    timed = []
    for _ in range(given.pairs):
        timed.append([seconds(lambda run=run: next(run))[0] for run in runs.values()])  # type: ignore[misc]
        print(", ".join(f"{name} {value:.3f} s" for name, value in zip(who, timed[-1], strict=True)))
    ratios = [statistics.median(row[0] / row[1 + place] for row in timed) for place in range(len(TORCH))]
    told = ", ".join(f"{ratio:.3f} to {name}" for name, ratio in zip(TORCH, ratios, strict=True))
    print(f"median ratio of an iteration: {told}; asked for: 0.7 of the better")


def whole_runs(given: argparse.Namespace) -> None:
    found = {}
    for who in (*TORCH, *CNNKIT):
        command = [sys.executable, __file__, "--alone", who, "--folder", str(given.folder)]
        command += ["--size", str(given.size), "--threads", str(given.threads)]
        command += ["--iterations", str(given.iterations), "--optimizer", given.optimizer]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[who] = json.loads(output)
        taken, loss = found[who]["iterations"][-1]
        print(f"{who}: {taken:.1f} s, loss {loss:.6g}, peak memory {found[who]['peak']:.0f} MiB")
    best = min(TORCH, key=lambda name: found[name]["iterations"][-1][0])
    taken, goal = found[best]["iterations"][-1]
    reached = next((at for at, loss in found["cnnkit"]["iterations"] if loss <= goal), None)
    least = min(found[name]["peak"] for name in TORCH)
    told = "not reached" if reached is None else f"{reached / taken:.3f} of torch's time"
    print(f"the loss of {best} after {given.iterations} iterations: {told}; asked for: 0.8")
    for who, asked in zip(CNNKIT, (1.0, 0.7), strict=True):
        print(f"peak memory of {who}: {found[who]['peak'] / least:.3f} of torch's; asked for: {asked}")


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--optimizer", default="lbfgs-torch", help="cnnkit's")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["steps", "runs"])
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone, given, start)
        return
    names = "cnnkit onnxruntime-gpu onnxruntime torch numpy".split()
    print(", ".join(f"{name} {found}" for name in names if (found := installed(name))))
    print(f"{given.size}x{given.size}, {given.threads} threads, {given.optimizer}")
    with tempfile.TemporaryDirectory() as folder:
        given.folder = Path(folder)
        write_network(given.folder)
        if given.only != "runs":
            steps(given)
        if given.only != "steps":
            whole_runs(given)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
