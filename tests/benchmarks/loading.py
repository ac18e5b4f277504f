"""From a fresh process to the class of a first picture, with VGG19 and all its 143,667,240 weights.

    python tests/benchmarks/loading.py

Each side imports its libraries, loads the same random weights from a file of its own kind and classifies one
picture; the sides take turns, each in a process of its own. "torch" is what people write: vgg19() of
torchvision and load_state_dict(torch.load(...)). Beside it stand torch on the meta device with a mapped file,
Keras with its HDF5 file, and ONNX Runtime alone with its weights in an external file and prepacking off. A
time is the median of the rounds, a peak memory the median of the processes' own, imports included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def picture() -> Pixels:
    """Blobs and grain, (224, 224, 3)."""
    random = np.random.default_rng(1)
    blobs = np.kron(random.integers(32, 224, (7, 7, 3)), np.ones((32, 32, 1)))
    return np.clip(blobs + random.normal(0, 16, blobs.shape), 0, 255).astype(np.uint8)


def prepared() -> NDArray[np.float32]:
    """Keras' "caffe" input, (1, 3, 224, 224)."""
    values = picture()[..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)[None])


def with_cnnkit(folder: Path) -> int:
    import cnnkit

    model = cnnkit.Model.load(folder / "vgg19.onnx")
    batch = model.preprocessing.apply(cnnkit.Image.load(picture())).tensor
    scores = model.probabilities
    return int(scores.of(cnnkit.Session(model, device="cpu").run(batch, [scores.tensor])).argmax())


def with_torch(folder: Path) -> int:
    import torch

    network = _torchvision().vgg19(weights=None)
    network.load_state_dict(torch.load(folder / "vgg19.pth"))
    return _best(network)


def with_torch_mapped(folder: Path) -> int:
    import torch

    with torch.device("meta"):
        network = _torchvision().vgg19(weights=None)
    network.load_state_dict(torch.load(folder / "vgg19.pth", mmap=True), assign=True)
    return _best(network)


def with_keras(folder: Path) -> int:
    import keras  # type: ignore[import-untyped]

    network = keras.applications.VGG19(weights=str(folder / "vgg19.weights.h5"))
    return int(np.argmax(network(np.moveaxis(prepared(), 1, -1))))


def with_external_data(folder: Path) -> int:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(folder / "external.onnx", options, providers=providers)
    return int(session.run(None, {"input": prepared()})[0].argmax())


SIDES: dict[str, Callable[[Path], int]] = {
    "cnnkit": with_cnnkit,
    "torch": with_torch,
    "torch, mapped": with_torch_mapped,
    "Keras": with_keras,
    "ONNX Runtime, external data": with_external_data,
}


def write(folder: Path) -> None:
    """The same weights as files for every side."""
    import onnx

    from cnnkit.models.vgg import vgg

    model = vgg("vgg19", "random:0")
    model.save(folder / "vgg19.onnx")
    whole = onnx.load(folder / "vgg19.onnx")
    weights = {tensor.name: tensor for tensor in whole.graph.initializer}
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in weights.items()}
    _write_torch(arrays, folder / "vgg19.pth")
    _write_keras(arrays, folder / "vgg19.weights.h5")
    onnx.save_model(
        whole, str(folder / "external.onnx"), save_as_external_data=True, location="external.data"
    )


def _write_torch(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """In torchvision's order, which is that of the network too; torch flattens channels first."""
    import torch

    with torch.device("meta"):
        names = list(_torchvision().vgg19(weights=None).state_dict())
    state = {}
    for name, array in zip(names, (a for n, a in arrays.items() if "." in n), strict=True):
        if array.shape == (25088, 4096):
            array = np.moveaxis(array.reshape(7, 7, 512, -1), 2, 0).reshape(array.shape)
        state[name] = torch.from_numpy(np.array(array.T if array.ndim == 2 else array, order="C"))
    torch.save(state, path)


def _write_keras(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """As Keras 3 lays them out: conv2d, conv2d_1, … and dense, dense_1, …"""
    import h5py  # type: ignore[import-untyped]

    counts = {"conv2d": 0, "dense": 0}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, _, variable = name.partition(".")
            kind = "conv2d" if layer.startswith("block") else "dense"
            group = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            kernel = variable == "kernel"
            file[f"{group}/vars/{0 if kernel else 1}"] = (
                array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
            )
            counts[kind] += not kernel


def _torchvision() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from networks import models

    return models


def _best(network: Any) -> int:
    """The class that torchvision's network finds."""
    import torch

    with torch.no_grad():
        return int(network.eval()(torch.from_numpy(prepared())).argmax())


def own_peak_memory() -> float:
    """MiB, by Linux: `ru_maxrss` would begin with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def alone(side: str, folder: Path) -> tuple[float, float, str]:
    """(seconds, MiB, class) of a fresh process; None where a library is missing."""
    command = [sys.executable, __file__, "--alone", side, "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        return float("nan"), float("nan"), done.stderr.strip().splitlines()[-1]
    memory, best = done.stdout.split()[-2:]
    return took, float(memory), best


def compare(folder: Path, rounds: int) -> None:
    names = "cnnkit onnxruntime-gpu onnxruntime torch torchvision keras tensorflow-cpu numpy".split()
    print(", ".join(f"{name} {found}" for name in names if (found := installed(name))))
    for side in SIDES:
        alone(side, folder)  # the file system's cache is warm for all
    found = [{side: alone(side, folder) for side in SIDES} for _ in range(rounds)]
    theirs = "torch"
    for side in SIDES:
        took, memory = (statistics.median(row[side][i] for row in found) for i in (0, 1))
        ratios = [statistics.median(row[side][i] / row[theirs][i] for row in found) for i in (0, 1)]
        print(f"{side:28} {took:6.2f} s  {memory:6.0f} MiB  class {found[0][side][2]}  "
              f"ratios to torch: time {ratios[0]:.3f}, memory {ratios[1]:.3f}")  # fmt: skip


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        best = SIDES[given.alone](given.folder)
        print(own_peak_memory(), best)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = f"import loading, pathlib; loading.write(pathlib.Path({folder!r}))"
        subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parent)
        compare(Path(folder), given.rounds)


if __name__ == "__main__":
    main()
