"""Occlusion with cnnkit against captum on torch: the same windows of the same networks, in interleaved pairs.

    python tests/benchmarks/occlusion.py --weights mobilenet_v2_1.0_224.onnx
    python tests/benchmarks/occlusion.py --network vgg16

captum runs with the best `perturbations_per_eval` of 1, 8 and 16; both sides run on the CPU with as many
threads. A time is the median of the pairs; a peak memory is that of a fresh process, imports included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 224
EVALUATIONS = (1, 8, 16)
WINDOWS = {"mobilenet_v2": (32, 16), "vgg16": (64, 48)}
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

Heatmap = NDArray[np.float32]


def vgg16_weights() -> Iterator[NDArray[np.float32]]:
    """Seeded random weights, (out, in, 3, 3) and (out, in), that keep the activations in range; no biases."""
    random = np.random.default_rng(0)
    channels = [3, *(width for count, width in VGG16 for _ in range(count))]
    shapes: list[tuple[int, ...]] = [(after, before, 3, 3) for before, after in pairwise(channels)]
    shapes += [(4096, 7 * 7 * channels[-1]), (4096, 4096), (1000, 4096)]
    for shape in shapes:
        deviation = np.float32((2 / np.prod(shape[1:])) ** 0.5)
        yield random.standard_normal(shape, dtype=np.float32) * deviation


def write_vgg16(path: Path) -> None:
    """VGG16 as an ONNX file."""
    import onnx

    import cnnkit

    b, weights = cnnkit.Builder("vgg16"), vgg16_weights()
    x = b.input("input", ["N", 3, SIZE, SIZE])
    for count, _ in VGG16:
        for weight in islice(weights, count):
            x = b.op.Relu(b.op.Conv(x, weight, np.zeros(len(weight), np.float32), pads=[1, 1, 1, 1]))
        x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op.Flatten(x)
    for weight in islice(weights, 2):
        x = b.op.Relu(b.op.Gemm(x, weight, np.zeros(len(weight), np.float32), transB=1))
    weight = next(weights)
    b.op.Gemm(x, weight, np.zeros(len(weight), np.float32), transB=1, output="output")
    b.output("output", ["N", len(weight)])
    onnx.save(b.model(), path)


def vgg16_in_torch() -> Any:
    """The same network in torch's own layers, so that the peak memory holds no second copy of the weights."""
    import torch
    from torch import nn

    weights = vgg16_weights()

    def filled(kind: Callable[..., Any], weight: NDArray[np.float32], **settings: Any) -> Any:
        layer = kind(weight.shape[1], weight.shape[0], **settings, device="meta")
        layer.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        layer.bias = nn.Parameter(torch.zeros(len(weight)), requires_grad=False)
        return layer

    layers: list[Any] = []
    for count, _ in VGG16:
        for weight in islice(weights, count):
            layers += [filled(nn.Conv2d, weight, kernel_size=3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for weight in weights:
        layers += [filled(nn.Linear, weight), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def mobilenet_in_torch(path: Path) -> Any:
    import onnx

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from onnx_in_torch import OnnxInTorch

    proto = onnx.load(path)
    return OnnxInTorch(proto, next(node.input[0] for node in proto.graph.node if node.op_type == "Softmax"))


def cnnkit_runner(path: Path, pixels: NDArray[np.uint8], network: str, threads: int) -> Callable[[], Heatmap]:
    import cnnkit
    from cnnkit.host.context import Settings

    patch, stride = WINDOWS[network]
    model, host = cnnkit.Model.load(path, preprocess="tf"), cnnkit.Host()
    settings = Settings(device="cpu", threads=threads)
    asked: dict[str, Any] = {"model": model, "host": host, "settings": settings, "target": 7, "plain": True}

    def run() -> Heatmap:
        result = cnnkit.run("occlusion", pixels, patch=patch, stride=stride, **asked)
        heatmap: Heatmap = result.arrays["heatmap"][0]
        return heatmap

    return run


def captum_runner(
    path: Path, pixels: NDArray[np.uint8], network: str, threads: int
) -> Callable[[int], Heatmap]:
    import torch
    from captum.attr import Occlusion  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    method = Occlusion(vgg16_in_torch() if network == "vgg16" else mobilenet_in_torch(path))
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    patch, stride = WINDOWS[network]

    def run(evaluations: int) -> Heatmap:
        with torch.inference_mode():
            attribution = method.attribute(
                x,
                sliding_window_shapes=(3, patch, patch),
                strides=(3, stride, stride),
                baselines=0.0,  # grey, 127.5, in the numbers of "tf"
                target=7,
                perturbations_per_eval=evaluations,
            )
        heatmap: Heatmap = attribution[0, 0].numpy()
        return heatmap

    return run


def seconds(run: Callable[[], Heatmap]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory(arguments: list[str]) -> float:
    """MiB that a fresh process takes at most for one map."""
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_memory() -> float:
    """MiB, by Linux: `ru_maxrss` would begin with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=list(WINDOWS), default="mobilenet_v2")
    parser.add_argument("--weights", type=Path, help="the ONNX file; vgg16 is made with random weights")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=["cnnkit", "captum"], help=argparse.SUPPRESS)
    parser.add_argument("--evaluations", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()

    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    if given.alone:
        common = given.weights, pixels, given.network, given.threads
        if given.alone == "cnnkit":
            cnnkit_runner(*common)()
        else:
            captum_runner(*common)(given.evaluations)
        print(own_peak_memory())
        return

    with tempfile.TemporaryDirectory() as folder:
        path = given.weights
        if path is None:
            if given.network != "vgg16":
                parser.error("--weights names the ONNX file of mobilenet_v2")
            path = Path(folder) / "vgg16.onnx"
            write_vgg16(path)
        compare(path, pixels, given.network, given.threads, given.pairs)


def compare(path: Path, pixels: NDArray[np.uint8], network: str, threads: int, pairs: int) -> None:
    names = "cnnkit onnxruntime-gpu onnxruntime captum torch numpy".split()
    print(", ".join(f"{name} {found}" for name in names if (found := installed(name))))
    patch, stride = WINDOWS[network]
    print(f"{network}, patch {patch}, stride {stride} at {SIZE}x{SIZE}, {threads} threads")

    ours = cnnkit_runner(path, pixels, network, threads)
    captum = captum_runner(path, pixels, network, threads)
    theirs = {count: partial(captum, count) for count in EVALUATIONS}
    expected = theirs[8]()
    difference = np.abs(ours() - expected).max() / np.abs(expected).max()
    print(f"relative difference of the maps: {difference:.1e}")

    trials = {count: min(seconds(run), seconds(run)) for count, run in theirs.items()}
    best = min(trials, key=lambda count: trials[count])
    listed = ", ".join(f"{count}: {took:.2f} s" for count, took in trials.items())
    print(f"captum by perturbations_per_eval: {listed}")
    timed = [(seconds(ours), seconds(theirs[best])) for _ in range(pairs)]
    for our_time, their_time in timed:
        print(f"cnnkit {our_time:.2f} s, captum {their_time:.2f} s, ratio {our_time / their_time:.3f}")
    print(f"median ratio of the times: {statistics.median(a / b for a, b in timed):.3f}")

    del ours, captum, theirs
    alone = ["--network", network, "--weights", str(path), "--threads", str(threads), "--alone"]
    memory = [peak_memory([*alone, "cnnkit"]), peak_memory([*alone, "captum", "--evaluations", str(best)])]
    print(f"peak memory: cnnkit {memory[0]:.0f} MiB, captum {memory[1]:.0f} MiB")
    print(f"ratio of the peak memories: {memory[0] / memory[1]:.3f}")


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
