"""Files as Keras writes them, and npz with Keras' names."""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_network import (
    CLASSES,
    Arrays,
    layers,
    made,
    read,
    tiny,
    write_keras,
    write_new,
    write_npz,
    write_old,
)

from cnnkit import ModelError, Preprocessing, Session
from cnnkit.models.architecture import Architecture
from cnnkit.models.weights.files import FileWeights
from cnnkit.models.weights.filling import read_weights

WRITERS = {
    "old.h5": write_old,
    "new.weights.h5": write_new,
    "whole.keras": write_keras,
    "arrays.npz": write_npz,
}


def same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_array_arrives_where_it_belongs(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / "unsaid", made())
    assert read_weights(path).family == "keras"
    same(read(path), made())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("kind", WRITERS)
def test_other_precisions(kind: str, dtype: Any, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, {name: array.astype(dtype) for name, array in made().items()})
    same(read(path), made())


def test_a_whole_model_and_its_optimizer(tmp_path: Path) -> None:
    path = write_old(tmp_path / "whole.h5", made(), inside="model_weights")
    with h5py.File(path, "a") as file:
        file["optimizer_weights/adam/momentum"] = np.zeros(3)
        file["model_weights/top_level_model_weights/unused"] = np.zeros(3)
    same(read(path), made())


def test_old_files_name_layers_differently(tmp_path: Path) -> None:
    """Then the order counts, as for Keras; Xception's file of 2017 has convolution2d_1 for conv2d."""
    path = write_old(tmp_path / "old.h5", made(), {"second": "convolution2d_1", "parted": "second"})
    same(read(path), made())


def test_names_count_more_than_the_order(tmp_path: Path) -> None:
    arrays = made()
    backwards = [
        name for layer in reversed(layers(arrays)) for name in arrays if name.startswith(layer + ".")
    ]
    same(read(write_old(tmp_path / "old.h5", {name: arrays[name] for name in backwards})), arrays)


def test_layer_names_in_pieces_and_as_text(tmp_path: Path) -> None:
    path = write_old(tmp_path / "old.h5", made())
    with h5py.File(path, "a") as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = names[:3]
        file.attrs["layer_names1"] = names[3:]
        weights = file["hidden"].attrs["weight_names"]
        del file["hidden"].attrs["weight_names"]
        file["hidden"].attrs["weight_names0"] = weights[:1]
        file["hidden"].attrs["weight_names1"] = weights[1:]
    same(read(path), made())


def test_layers_of_a_class_beyond_ten(tmp_path: Path) -> None:
    """dense_10 comes after dense_9, not after dense_1."""
    values = [np.full((2, 2), number, np.float32) for number in range(12)]
    path = tmp_path / "twelve.weights.h5"
    with h5py.File(path, "w") as file:
        for number, value in enumerate(values):
            counter = f"dense_{number}" if number else "dense"
            file[f"layers/{counter}/vars/0"] = value
            file[f"layers/{counter}/vars/1"] = value[0]
    net = Architecture("chain", (1, 1))
    x = net.global_average_pool(net.convolution(net.input(), "conv", 2, 1, bias=False), "pool")
    for number in range(12):
        x = net.dense(x, f"layer{number}", 2)
    dense = [parameter for parameter in net.parameters if parameter.kind == "dense"]
    found = {parameter.name: array for parameter, array in FileWeights.open(path).fill(dense, {})}
    for number, value in enumerate(values):
        assert_array_equal(found[f"layer{number}.kernel"], value)


def test_noted_names_count_more_than_counters(tmp_path: Path) -> None:
    """A layer made earlier may come later: the counters are exchanged here."""
    swapped = {**CLASSES, "first": "conv2d_1", "second": "conv2d"}
    with pytest.raises(ModelError, match=r"first\.kernel is 3x3x3x4 in the network, conv2d/0 1x1x5x4"):
        read(write_new(tmp_path / "counted.weights.h5", made(), swapped))
    same(read(write_new(tmp_path / "noted.weights.h5", made(), swapped, noted=True)), made())


def test_groups_by_the_names_of_the_layers(tmp_path: Path) -> None:
    names = {layer: layer for layer in CLASSES}
    same(read(write_new(tmp_path / "named.weights.h5", made(), names)), made())


def test_the_first_blocks_of_vgg19(data: Path) -> None:
    """The mean of what block1_conv1 makes of a grey picture is known without running the network."""
    path = data / "weights/vgg19_block1_to_block3.npz"
    net = Architecture("blocks", (8, 8))
    x, widths = net.input(), {1: (64, 2), 2: (128, 2), 3: (256, 4)}
    for block, (width, count) in widths.items():
        for number in range(1, count + 1):
            x = net.convolution(x, f"block{block}_conv{number}", width, 3, activation="relu")
    model = net.model(x, FileWeights.open(path), Preprocessing.preset("caffe", height=8, width=8))
    with np.load(path) as arrays:
        kernel, bias = arrays["block1_conv1.kernel"], arrays["block1_conv1.bias"]
    grey = Session(model).run(np.ones((1, 3, 8, 8), np.float32), ["block1_conv1/conv"])["block1_conv1/conv"]
    np.testing.assert_allclose(grey[0, :, 4, 4], kernel.sum((0, 1, 2)) + bias, atol=1e-5)


def test_the_real_mini_xception(data: Path) -> None:
    """A whole model of Keras 2.0.5, with an optimizer and nested groups."""
    from cnnkit.models.mini_xception import mini_xception

    path = data / "weights/mini_xception_fer2013.hdf5"
    model = mini_xception(path)
    with h5py.File(path) as file:
        group = file["model_weights/separable_conv2d_1/separable_conv2d_1_1"]
        depthwise = group["depthwise_kernel:0"][()]
    first = Session(model).run(
        np.ones((1, 1, 64, 64), np.float32), ["activation_2", "separable_conv2d_1/depthwise"]
    )
    before, after = first["activation_2"], first["separable_conv2d_1/depthwise"]
    expected = np.einsum("chw,hwc->c", before[0, :, 9:12, 19:22], depthwise[..., 0])
    np.testing.assert_allclose(after[0, :, 10, 20], expected, rtol=1e-4, atol=1e-5)


def test_what_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    other = write_old(tmp_path / "other.h5", made())
    for number, link in enumerate((h5py.ExternalLink(other, "first"), h5py.SoftLink("/norm"))):
        path = write_old(tmp_path / f"{number}.h5", made())
        with h5py.File(path, "a") as file:
            del file["first"]
            file["first"] = link
        with pytest.raises(ModelError, match="has a link in place of 'first'; cnnkit follows no links"):
            read(path)
    path = write_old(tmp_path / "virtual.h5", made())
    with h5py.File(path, "a") as file:
        weights = file["scores"].attrs["weight_names"][1]
        del file["scores"][weights]
        layout = h5py.VirtualLayout((3,), np.float32)
        layout[:] = h5py.VirtualSource(other, f"scores/{weights}", shape=(3,))
        file["scores"].create_virtual_dataset(weights, layout)
    with pytest.raises(ModelError, match="reads only what is in this one"):
        read(path)


def test_other_hdf5_and_other_archives(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["measured"] = np.zeros(3)
    with pytest.raises(
        ModelError, match=r"other\.h5 is an HDF5 file, but not one with weights that Keras wrote"
    ):
        FileWeights.open(tmp_path / "other.h5")
    compressed = write_keras(tmp_path / "packed.keras", made(), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"compressed.*unpack it and take its model\.weights\.h5"):
        FileWeights.open(compressed)
    with h5py.File(tmp_path / "nested.weights.h5", "w") as file:
        file["layers/functional/layers/dense/vars/0"] = np.zeros((2, 2))
    with pytest.raises(ModelError, match="has layers within its 'functional'"):
        FileWeights.open(tmp_path / "nested.weights.h5")
    with zipfile.ZipFile(tmp_path / "letters.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ModelError, match="a zip archive without weights"):
        FileWeights.open(tmp_path / "letters.zip")


def test_objects_in_npz_stay_there(tmp_path: Path) -> None:
    """They would be pickles, which run."""
    arrays: Arrays = made() | {"first.bias": np.array([print] * 4, object)}
    with pytest.raises(ModelError, match=r"'first\.bias' in .* has numbers of type object"):
        read(write_npz(tmp_path / "objects.npz", arrays))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
def test_keras_gives_the_same_output(suffix: str, named: bool, tmp_path: Path) -> None:
    """Whether its layers have our names or those that it made up."""
    theirs, path = keras_tiny(named), tmp_path / f"x{suffix}"
    save = theirs.save_weights if "weights" in suffix else theirs.save
    save(path)
    batch = np.random.default_rng(1).standard_normal((2, 6, 4, 3)).astype(np.float32)
    expected = np.asarray(theirs.predict(batch, verbose=0))
    found = Session(tiny(path)).run(batch.transpose(0, 3, 1, 2))["scores"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected) > 0.1


def keras_tiny(named: bool) -> Any:
    """The tiny network in Keras, with random weights and statistics."""
    import keras

    keras.utils.set_random_seed(0)
    kinds = keras.layers
    names = [{"name": name} if named else {} for name in CLASSES]
    x = picture = kinds.Input((6, 4, 3))
    x = kinds.Conv2D(4, 3, padding="same", activation="relu", **names[0])(x)
    x = kinds.BatchNormalization(**names[1])(x)
    x = kinds.DepthwiseConv2D(3, padding="same", use_bias=False, **names[2])(x)
    x = kinds.Dropout(0.5, seed=1)(x)
    x = kinds.SeparableConv2D(5, 3, padding="same", use_bias=False, **names[3])(x)
    x = kinds.Conv2D(4, 1, use_bias=False, **names[4])(x)
    x = kinds.Dense(6, activation="relu", **names[5])(kinds.Flatten()(x))
    x = kinds.Dense(3, **names[6])(x)
    model = keras.Model(picture, x)
    model.compile("adam", "mse")
    random = np.random.default_rng(2)
    for variable in model.weights:
        noise = random.standard_normal(variable.shape)
        variable.assign(0.5 + np.abs(noise) if "variance" in variable.path else noise)
    return model
