"""Keras networks as ONNX files with TensorFlow's gradients: `python tests/keras_networks.py OUT`.

It writes OUT/{name}.onnx (NHWC, from `input` to `output`) and OUT/{name}.npz, with `x`, `output`, `cotangent`
and `gradient`, that of `sum(output * cotangent)` with respect to `x`. Parameters have none: tf2onnx folds
batch norms into kernels, merges the kernels of separable convolutions, and keeps no name of Keras.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnxruntime
import tensorflow
import tf2onnx

CLASSES = 10
OPSET = 18  # the newest of tf2onnx 1.17


@dataclass(frozen=True)
class Network:
    """How a network is built, at what height and width, and the seeds of its input's pictures.

    For these pictures no unit lies so near a kink that the rounding of float32 decides its side.
    """

    build: Callable[..., keras.Model]
    size: tuple[int, int]
    pictures: tuple[int, ...]


NETWORKS: Mapping[str, Network] = {
    "xception": Network(keras.applications.Xception, (75, 96), pictures=(69, 38)),
    "mobilenet_v2": Network(keras.applications.MobileNetV2, (64, 72), pictures=(63, 8)),
}


def build(name: str) -> tuple[keras.Model, np.ndarray]:
    """The network, no weight of it 0 or 1, and an input of shape (batch, height, width, 3)."""
    keras.utils.set_random_seed(0)
    network = NETWORKS[name]
    # A softmax of random logits saturates and starves the gradient.
    model = network.build(
        weights=None,
        input_shape=(*network.size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            _randomize(variable, generator)
    _measure_batch_norms(model, _noise(generator, (8, *network.size, 3)))
    return model, pictures(network.pictures, network.size)


def pictures(seeds: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """Noise; each picture depends on its seed alone."""
    return np.stack([_noise(np.random.default_rng(seed), (*size, 3)) for seed in seeds])


def _noise(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)


def _randomize(variable: keras.Variable, generator: np.random.Generator) -> None:
    noise = _noise(generator, tuple(variable.shape))
    if variable.name == "gamma":
        variable.assign(1 + 0.1 * noise)
    elif variable.name == "beta":
        # Most units live, so a deep network is smooth enough to compare in float32.
        variable.assign(0.5 + 0.1 * noise)
    elif noise.ndim > 1:
        # Keras keeps a depthwise kernel as (height, width, channels, multiplier).
        outputs = noise.shape[-2] if "depthwise" in variable.path else noise.shape[-1]
        variable.assign(noise * np.sqrt(2 * outputs / noise.size))
    else:
        variable.assign(0.1 * noise)


def _measure_batch_norms(model: keras.Model, x: np.ndarray) -> None:
    """One pass sets the moving statistics; dropout stays off."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    rates = [dropout.rate for dropout in dropouts]
    for dropout in dropouts:
        dropout.rate = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for dropout, rate in zip(dropouts, rates, strict=True):
        dropout.rate = rate


def export(model: keras.Model, x: np.ndarray, path: Path) -> None:
    """Writes the network for inputs of the shape of x."""
    signature = [tensorflow.TensorSpec(x.shape, tensorflow.float32, name="input")]

    @tensorflow.function(input_signature=signature)
    def forward(pictures: tensorflow.Tensor) -> dict[str, tensorflow.Tensor]:
        return {"output": model(pictures, training=False)}

    tf2onnx.convert.from_function(forward, signature, opset=OPSET, output_path=str(path))


def tensorflow_gradient(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the .npz file; the cotangent is seeded and standard normal."""
    pictures = tensorflow.constant(x)
    with tensorflow.GradientTape() as tape:
        tape.watch(pictures)
        output = model(pictures, training=False)
        cotangent = _noise(np.random.default_rng(1), tuple(output.shape))
        scalar = tensorflow.reduce_sum(output * cotangent)
    gradient = tape.gradient(scalar, pictures)
    return {"x": x, "output": output.numpy(), "cotangent": cotangent, "gradient": gradient.numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write Keras networks and TensorFlow's gradients.")
    parser.add_argument("out", type=Path)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        start = time.perf_counter()
        model, x = build(name)
        path = folder / f"{name}.onnx"
        export(model, x, path)
        arrays = tensorflow_gradient(model, x)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (output,) = session.run(["output"], {"input": x})
        error = np.abs(output - arrays["output"]).max() / np.abs(arrays["output"]).max()
        if error > 1e-4:
            raise SystemExit(f"{name}: the ONNX output differs from TensorFlow's by {error:.1e}")
        np.savez(path.with_suffix(".npz"), **arrays)
        seconds = time.perf_counter() - start
        print(f"{name}: {path}, relative error of the output {error:.1e}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
