"""Heat maps with cnnkit against pytorch-grad-cam and captum on torch, in interleaved pairs.

    python tests/benchmarks/attribution.py grad-cam --network mobilenet_v2
    python tests/benchmarks/attribution.py grad-cam --network resnet18
    python tests/benchmarks/attribution.py grad-cam --network vgg16
    python tests/benchmarks/attribution.py integrated-gradients --network mobilenet_v2

The networks are torchvision's with seeded weights and 1000 classes, exported to ONNX, at 224x224. grad-cam is
made at the last layer with a plane, integrated gradients with 50 points from zero. cnnkit's time is that of
`cnnkit.run` with preprocessing and the drawn picture, the other's that of its call on a ready tensor, with
NCHW and with channels-last tensors; captum runs with the best `internal_batch_size` of 5, 10, 25 and 50. Both
sides run on the CPU with as many threads. Where the maps differ by more than 1e-4, it is said how far each is
from float64: units near their kink decide in float32 by rounding, on either side. A time is the median of the
pairs; a peak memory is that of a fresh process, imports included.
"""

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 224
TARGET = 7
POINTS = 50
LAYERS = {"mobilenet_v2": "features.18", "resnet18": "layer4.1", "vgg16": "features.30"}
"""The modules whose outputs are the last with a plane."""
INTERNAL = (5, 10, 25, 50)
FORMS = ("nchw", "channels_last")
TOLERANCE = 1e-4

Map = NDArray[np.float32]
Run = Callable[[], Map]


def pixels() -> NDArray[np.uint8]:
    """Blobs and grain."""
    random = np.random.default_rng(1)
    blobs = np.kron(random.integers(32, 224, (7, 7, 3)), np.ones((SIZE // 7, SIZE // 7, 1)))
    return np.clip(blobs + random.normal(0, 16, blobs.shape), 0, 255).astype(np.uint8)


def tensor() -> NDArray[np.float32]:
    import cnnkit

    return cnnkit.Preprocessing.preset("torch").to_network(pixels())[None]


def torchvision_network(name: str) -> Any:
    """With torchvision's own random weights, and batch norms that measured a picture."""
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from networks import models

    torch.manual_seed(0)
    network = getattr(models, name)(weights=None)
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
        torch.nn.init.uniform_(norm.weight, 0.9, 1.1)
        torch.nn.init.uniform_(norm.bias, 0.4, 0.6)
    if norms:
        with torch.no_grad():
            network(torch.from_numpy(tensor()).flip(3))
    return network.eval()


def write(name: str, folder: Path) -> None:
    """The network as FOLDER/network.onnx and, for torch, FOLDER/network.pt."""
    import torch

    network = torchvision_network(name)
    torch.save(network.state_dict(), folder / "network.pt")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        x = torch.zeros(1, 3, SIZE, SIZE)
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        names = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
        torch.onnx.export(network, (x,), folder / "network.onnx", dynamo=False, **names)


def with_cnnkit(method: str, folder: Path, threads: int) -> Run:
    import cnnkit

    model = cnnkit.Model.load(folder / "network.onnx", preprocess="torch")
    settings = cnnkit.Settings(device="cpu", threads=threads)
    asked: dict[str, Any] = {"model": model, "host": cnnkit.Host(), "settings": settings, "target": TARGET}
    if method == "integrated-gradients":
        asked |= {"baseline": "zero", "steps": POINTS}

    def run() -> Map:
        arrays = cnnkit.run(method, pixels(), plain=True, **asked).arrays
        return np.asarray(arrays["heatmap"][0] if method == "grad-cam" else arrays["attributions"][0])

    return run


def with_torch(
    method: str, name: str, folder: Path, threads: int, form: str, exact: bool = False
) -> Callable[[int], Map]:
    """What runs pytorch-grad-cam, or captum with so many points at once; `exact` is in float64."""
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from networks import models

    torch.set_num_threads(threads)
    layout = torch.channels_last if form == "channels_last" else torch.contiguous_format
    with torch.device("meta"):
        network = getattr(models, name)(weights=None)
    state = torch.load(folder / "network.pt", mmap=True)
    network.load_state_dict(state, assign=True)
    network = network.to(memory_format=layout).eval()
    x = torch.from_numpy(tensor()).contiguous(memory_format=layout)
    if exact:
        network, x = network.double(), x.double()
    if method == "grad-cam":
        from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
        from pytorch_grad_cam.utils.model_targets import (  # type: ignore[import-untyped]
            ClassifierOutputTarget,
        )

        cam = GradCAM(network, [network.get_submodule(LAYERS[name])])
        return lambda _: np.asarray(cam(x, [ClassifierOutputTarget(TARGET)])[0])
    from captum.attr import IntegratedGradients  # type: ignore[import-untyped]

    ig = IntegratedGradients(network)
    return lambda count: (
        ig.attribute(x, target=TARGET, n_steps=POINTS, internal_batch_size=count)[0].detach().numpy()
    )


def scaled(heatmap: Map) -> Map:
    """To 0..1, as pytorch-grad-cam returns its maps."""
    return (heatmap - heatmap.min()) / (np.ptp(heatmap) + np.float32(1e-7))


def error(found: Map, expected: Map) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def own_peak_memory() -> float:
    """MiB, by Linux: `ru_maxrss` would begin with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def runner(who: str, method: str, name: str, folder: Path, threads: int) -> Run:
    """`who` is cnnkit, or a form of torch's tensors with the points at once, such as nchw-10."""
    if who == "cnnkit":
        return with_cnnkit(method, folder, threads)
    form, _, count = who.partition("-")
    return partial(with_torch(method, name, folder, threads, form), int(count))


def best_count(run: Callable[[int], Map], form: str) -> int:
    """The points that captum takes best at once."""
    run(min(INTERNAL))
    times = {count: seconds(partial(run, count)) for count in INTERNAL}
    listed = ", ".join(f"{count}: {took:.2f} s" for count, took in times.items())
    print(f"captum by internal_batch_size, {form}: {listed}")
    return min(times, key=lambda count: times[count])


def compare(method: str, name: str, folder: Path, threads: int, pairs: int) -> None:
    names = "cnnkit onnxruntime-gpu onnxruntime grad-cam captum torch torchvision numpy".split()
    print(", ".join(f"{name} {found}" for name in names if (found := installed(name))))
    rival = "pytorch-grad-cam" if method == "grad-cam" else f"captum, {POINTS} points"
    print(f"{method} of {name} at {SIZE}x{SIZE} against {rival}, {threads} threads")
    ours = with_cnnkit(method, folder, threads)
    theirs = {form: with_torch(method, name, folder, threads, form) for form in FORMS}
    counts = {form: best_count(run, form) if method != "grad-cam" else 0 for form, run in theirs.items()}

    found, expected = ours(), theirs["nchw"](counts["nchw"])
    if method == "grad-cam":
        found = scaled(found)
    print(f"relative difference of the maps: {error(found, expected):.1e}, ", end="")
    if error(found, expected) <= TOLERANCE:
        print("they agree")
    else:
        exact = with_torch(method, name, folder, threads, "nchw", exact=True)(min(INTERNAL))
        print(f"to the map in float64: cnnkit {error(found, exact):.1e}, torch {error(expected, exact):.1e}")

    runs = [ours, *(partial(run, counts[form]) for form, run in theirs.items())]
    for run in runs:
        run()
    timed = [[seconds(run) for run in runs] for _ in range(pairs)]
    for row in timed:
        listed = ", ".join(f"{form} {took:.3f} s" for form, took in zip(FORMS, row[1:], strict=True))
        print(f"cnnkit {row[0]:.3f} s, torch {listed}")
    for place, form in enumerate(FORMS, 1):
        print(f"median ratio of the times to {form}: {statistics.median(r[0] / r[place] for r in timed):.3f}")

    del ours, theirs, runs
    memory = {}
    for who in ("cnnkit", *(f"{form}-{count}" for form, count in counts.items())):
        command = [sys.executable, __file__, method, "--network", name, "--threads", str(threads)]
        command += ["--alone", who, "--folder", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[who] = float(output)
        print(f"peak memory of {who}: {memory[who]:.0f} MiB")
    ratio = memory.pop("cnnkit") / min(memory.values())
    print(f"ratio of the peak memories: {ratio:.3f}")


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=["grad-cam", "integrated-gradients"])
    parser.add_argument("--network", choices=list(LAYERS), default="mobilenet_v2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        run = runner(given.alone, given.method, given.network, given.folder, given.threads)
        for _ in range(3):
            run()
        print(own_peak_memory())
        return
    with tempfile.TemporaryDirectory() as folder:
        command = (
            f"import attribution, pathlib; attribution.write({given.network!r}, pathlib.Path({folder!r}))"
        )
        subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parent)
        compare(given.method, given.network, Path(folder), given.threads, given.pairs)


if __name__ == "__main__":
    main()
