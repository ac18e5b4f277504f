"""The builders against `keras.applications`, layer by layer, on weights that Keras wrote in all its formats.

The weights are random and lively: each kernel is scaled until its layer's output has variance one, and every
batch norm has statistics of its own. Keras' own initialisation dies out on the way down, to 1e-11 at the end
of MobileNetV2, where nothing could differ.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from cnnkit import SGD, Model, Session, TrainingSession, gradient_model, losses, measure
from cnnkit.models.mobilenet_v2 import mobilenet_v2
from cnnkit.models.vgg import vgg
from cnnkit.models.xception import xception

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of Keras, as it saves
]

Array = NDArray[Any]
FORMATS = ("old.h5", "whole.h5", "new.weights.h5", "new.keras")


@dataclass(frozen=True)
class Case:
    """A builder, what the same network is to Keras, and the sizes (height, width) to compare at."""

    build: Callable[..., Model]
    keras: str
    arguments: Mapping[str, Any]
    sizes: Sequence[tuple[int, int]]
    formats: Sequence[str] = FORMATS[:1]


CASES = {
    # Dense layers on a plane that is small and not square.
    "vgg16": Case(partial(vgg, "vgg16", size=(64, 96)), "VGG16", {}, [(64, 96)], ["new.weights.h5"]),
    "vgg19-notop": Case(
        partial(vgg, "vgg19", top=False), "VGG19", {"include_top": False}, [(64, 64), (51, 75)], FORMATS
    ),
    "xception": Case(xception, "Xception", {}, [(299, 299), (150, 150), (75, 91)], FORMATS),
    "mobilenet_v2": Case(mobilenet_v2, "MobileNetV2", {}, [(224, 224), (97, 128)], FORMATS),
    "mobilenet_v2-0.35": Case(
        partial(mobilenet_v2, alpha=0.35, top=False),
        "MobileNetV2",
        {"alpha": 0.35, "include_top": False},
        [(97, 128), (63, 50)],
    ),
    "mobilenet_v2-1.4": Case(
        partial(mobilenet_v2, alpha=1.4, classes=5),
        "MobileNetV2",
        {"alpha": 1.4, "classes": 5},
        [(97, 128), (64, 75)],
    ),
}


@dataclass(frozen=True)
class Pair:
    """A network of Keras, and ours made of the first of the files that it wrote."""

    case: Case
    theirs: Any
    files: Sequence[Path]
    ours: Model

    def of_size(self, size: tuple[int, int]) -> Any:
        """Keras' network for another size: MobileNetV2 pads by the one that it was built for."""
        if size == self.case.sizes[0]:
            return self.theirs
        theirs = application(self.case.keras, size, **self.case.arguments)
        theirs.set_weights(self.theirs.get_weights())
        return theirs


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    case = CASES[request.param]
    theirs = application(case.keras, case.sizes[0], **case.arguments)
    enliven(theirs, noise(case.sizes[0]))
    files = [tmp_path_factory.mktemp(request.param) / name for name in case.formats]
    for path in files:
        write(theirs, path)
    yield Pair(case, theirs, files, case.build(files[0]))
    for path in files:
        path.unlink()


def application(name: str, size: tuple[int, int], **arguments: Any) -> Any:
    import keras

    keras.backend.clear_session()  # numbers the unnamed layers from the start
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(*size, 3), **arguments)


def noise(size: tuple[int, int], seed: int = 0, batch: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, *size, 3), np.float32)


def enliven(network: Any, x: Array) -> None:
    """Give a network of Keras random weights under which every convolution of x has variance one."""
    generator = np.random.default_rng(1)

    def normal(variable: Any, mean: float = 0.0, deviation: float = 1.0) -> None:
        numbers = generator.standard_normal(tuple(variable.shape), np.float32)
        variable.assign(mean + deviation * numbers)

    values: dict[str, Any] = {network.layers[0].name: x}
    for layer in network.layers[1:]:
        read = layer.input if isinstance(layer.input, list) else [layer.input]
        inputs = [values[tensor._keras_history.operation.name] for tensor in read]
        given = inputs if len(inputs) > 1 else inputs[0]
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            normal(layer.gamma, 1.0, 0.2)
            normal(layer.beta, 0.2, 0.3)
            normal(layer.moving_mean, 0.0, 0.3)
            layer.moving_variance.assign(np.exp(generator.normal(0, 0.3, layer.moving_variance.shape)))
        elif layer.weights:
            for variable in layer.weights:
                normal(variable, 0.0, 0.1 if variable.name == "bias" else 1.0)
            scale_by = np.asarray(layer(given))
            if kind == "Dense" and layer.activation.__name__ == "softmax":
                scale_by = np.asarray(given) @ np.asarray(layer.kernel) + np.asarray(layer.bias)
            last = [variable for variable in layer.weights if variable.name != "depthwise_kernel"]
            for variable in last:
                variable.assign(np.asarray(variable) / scale_by.std())
        values[layer.name] = layer(given)


def write(network: Any, path: Path) -> None:
    """What Keras writes by the name of the file, and its old format of weights for old.h5."""
    if path.name == "old.h5":
        import h5py
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, network)
    elif path.name.endswith(".weights.h5"):
        network.save_weights(path)
    else:
        network.save(path)


def planes(values: Any) -> Array:
    """Values of Keras in ONNX's order: channels second."""
    array = np.asarray(values)
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def as_onnx(weights: Any, name: str) -> Array:
    """Weights of Keras in ONNX's order: (outputs, inputs, height, width)."""
    array = np.asarray(weights)
    if array.ndim < 4:
        return array
    return array.transpose((2, 3, 0, 1) if name == "depthwise_kernel" else (3, 2, 0, 1))


def error(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def weights_of(model: Model) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.proto.graph.initializer}


def test_the_same_layers_and_parameters(pair: Pair) -> None:
    assert [layer.name for layer in pair.ours.layers] == [layer.name for layer in pair.theirs.layers]
    assert measure(pair.ours.graph, *pair.case.sizes[0]).parameters == pair.theirs.count_params()


def test_every_layer_of_every_size(pair: Pair) -> None:
    import keras

    session = Session(pair.ours, "cpu")
    names = [layer.name for layer in pair.ours.layers]
    for size in pair.case.sizes:
        theirs = pair.of_size(size)
        x = noise(size, seed=2)
        expected = keras.Model(theirs.input, [layer.output for layer in theirs.layers])(x, training=False)
        found = session.run(planes(x), names)
        errors = {
            name: error(found[name], planes(values)) for name, values in zip(names, expected, strict=True)
        }
        assert {name: wrong for name, wrong in errors.items() if not wrong <= 1e-4} == {}, size
        deepest = next(values for values in expected[::-1] if len(values.shape) == 4)
        assert np.std(deepest) > 0.1, "the layers died out, so this compared nothing"


def test_the_gradient_of_the_picture(pair: Pair) -> None:
    """Of one picture in four at least: in the others a unit may lie so near a kink that rounding decides."""
    import keras
    import tensorflow

    size = pair.case.sizes[-1]
    theirs = pair.of_size(size)
    deepest = [layer for layer in theirs.layers if len(layer.output.shape) == 4][-1]
    x = tensorflow.constant(noise(size, seed=2, batch=4))
    with tensorflow.GradientTape() as tape:
        tape.watch(x)
        score = tensorflow.reduce_sum(keras.Model(theirs.input, deepest.output)(x, training=False))
    expected = planes(tape.gradient(score, x))
    session = Session(Model.of(gradient_model(pair.ours, deepest.name, size=size)), "cpu")
    found = session.run(planes(x), ["gradient"])["gradient"]
    assert min(map(error, found, expected)) <= 1e-4


def test_every_format_gives_the_same_weights(pair: Pair) -> None:
    first = weights_of(pair.ours)
    for path in pair.files[1:]:
        for name, array in weights_of(pair.case.build(path)).items():
            np.testing.assert_array_equal(array, first[name], f"{name} of {path.name}")
    layer = pair.theirs.layers[1]
    np.testing.assert_array_equal(first[f"{layer.name}.kernel"], as_onnx(layer.kernel, "kernel"))


def test_a_step_of_fine_tuning_moves_every_weight_as_keras_does(tmp_path: Path) -> None:
    import keras
    import tensorflow

    size, classes = (75, 83), 4
    theirs = application("Xception", size, classes=classes, classifier_activation=None)
    enliven(theirs, noise(size))
    write(theirs, tmp_path / "old.h5")
    ours = xception(tmp_path / "old.h5", classes=classes, activation=None)
    x, labels = noise(size, seed=3, batch=2), np.array([1, 3])

    def loss(builder: Any, tap: Callable[[str], Any]) -> dict[str, Any]:
        label = builder.input("label", ["batch"], np.int64)
        return {"cross_entropy": losses.cross_entropy(builder.op, tap("predictions"), label)}

    session = TrainingSession(ours, loss, ["*"], SGD(1.0), size=size, device="cpu")
    before = {name: session.read(name) for name in session.parameters}
    our_loss = session.step({"input": planes(x), "label": labels})["total"]

    variables = theirs.trainable_variables
    with tensorflow.GradientTape() as tape:
        scores = theirs(x, training=False)
        their_loss = keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True)
        their_loss = tensorflow.reduce_mean(their_loss)
    gradients = tape.gradient(their_loss, [variable.value for variable in variables])
    old = [np.array(variable) for variable in variables]
    keras.optimizers.SGD(1.0).apply(gradients, variables)

    assert our_loss == pytest.approx(float(their_loss), rel=1e-5)
    assert len(session.parameters) == len(variables)
    layers = {id(variable): layer.name for layer in theirs.layers for variable in layer.weights}
    for variable, first in zip(variables, old, strict=True):
        name = f"{layers[id(variable)]}.{variable.name}"
        step = session.read(name) - before[name]
        assert error(step, as_onnx(np.array(variable) - first, variable.name)) <= 1e-4, name
