"""A plugin whose network is made from published weights; the server's address is in its module."""

import io
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODULE = '''
import numpy as np
from cnnkit import Builder, Model, Network, Preprocessing, Source, hookimpl

def build(weights, *, classes=3, size=(16, 16)):
    """Two convolutions and a dense layer."""
    if str(weights).startswith("random:"):
        random = np.random.default_rng(int(str(weights).partition(":")[2]))
        shapes = {"first": (64, 3, 3, 3), "second": (256, 64, 3, 3), "dense": (256, classes)}
        arrays = {name: random.normal(size=shape, scale=0.1) for name, shape in shapes.items()}
    else:
        with np.load(weights) as read:
            arrays = dict(read)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    builder = Builder("tiny")
    op = builder.op
    x = builder.input("input", ["N", 3, *size])
    x = op.Relu(op.Conv(x, arrays["first"], pads=[1] * 4, name="first/conv"), name="first")
    x = op.Relu(op.Conv(x, arrays["second"], pads=[1] * 4, name="second/conv"), name="second")
    x = op.Flatten(op.GlobalAveragePool(x, name="pool"), name="flatten")
    x = op.Gemm(x, arrays["dense"], name="dense")
    builder.output(op.Softmax(x, axis=1, name="probabilities"), ["N", classes])
    preprocessing = Preprocessing.preset("torch", height=size[0], width=size[1])
    return Model.of(builder.model(), preprocessing=preprocessing)

WEIGHTS = "ADDRESS/weights/tiny.npz"
LABELS = Source("ADDRESS/labels.json", "LABELS_CHECKSUM", 40)

@hookimpl
def cnnkit_models():
    return [
        Network("tiny", "a tiny network", "MIT", build=build, labels=LABELS,
                source=Source(WEIGHTS, "WEIGHTS_CHECKSUM", WEIGHTS_SIZE)),
        Network("loose", "without a checksum", "MIT", build=build, source=Source(WEIGHTS)),
        Network("own", "without published weights", "", build=build),
        Network("neither", "of no kind", ""),
    ]
'''
NAMES = ("tiny", "loose", "own", "neither")
LABELS = b'{"0": ["n0", "red"], "1": ["n1", "green"], "2": ["n2", "blue"]}'
WEIGHTS_PATH, LABELS_PATH = "/weights/tiny.npz", "/labels.json"


def arrays(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shapes = {"first": (64, 3, 3, 3), "second": (256, 64, 3, 3), "dense": (256, 3)}
    return {name: random.normal(size=shape, scale=0.1).astype(np.float32) for name, shape in shapes.items()}


def weights(seed: int = 0) -> bytes:
    """The file of weights that is published: 600 KB."""
    file = io.BytesIO()
    np.savez(file, **arrays(seed))  # type: ignore[arg-type]
    return file.getvalue()


def install(folder: Path, address: str, write_distribution: Callable[..., Path]) -> Path:
    """Lay the distribution `cnnkit-published` into a folder."""
    from hashlib import md5, sha256

    source = MODULE.replace("WEIGHTS_CHECKSUM", f"md5:{md5(weights()).hexdigest()}")
    source = source.replace("LABELS_CHECKSUM", f"sha256:{sha256(LABELS).hexdigest()}")
    source = source.replace("ADDRESS", address).replace("WEIGHTS_SIZE", str(len(weights())))
    entries = {"cnnkit.models": dict.fromkeys(NAMES, "published_networks")}
    return write_distribution(folder, "cnnkit-published", entries, {"published_networks": source})


def entry_points(folder: Path) -> list[EntryPoint]:
    return [entry for each in distributions(path=[str(folder)]) for entry in each.entry_points]
