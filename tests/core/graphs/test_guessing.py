"""What is assumed of the pictures that a network takes, and why."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from cnnkit import Builder, Model, Preprocessing

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
CAFFE = np.array([103.939, 116.779, 123.68], np.float32).reshape(3, 1, 1)

Begin = Callable[[Builder, Any], Any]


def guessed(
    begin: Begin, producer: str = "", shape: tuple[int | str, ...] = ("n", 3, 8, 6), dtype: Any = np.float32
) -> tuple[Preprocessing, str]:
    """Of a network that begins so and goes on with a convolution."""
    b = Builder()
    x = begin(b, b.input("input", shape, dtype))
    channels = 1 if 1 in shape[1:] else 3
    b.output(b.op.Conv(x, np.ones((2, channels, 3, 3), np.float32), name="conv"))
    proto = b.model()
    proto.producer_name = producer
    model = Model.of(proto)
    return model.preprocessing, model.assumptions[0]


def plane(values: Any) -> Any:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def first(b: Builder, x: Any) -> Any:
    return b.op.Transpose(x, perm=[0, 3, 1, 2])


def norm(b: Builder, x: Any, mean: Any, variance: Any) -> Any:
    ones = np.ones(3, np.float32)
    return b.op.BatchNormalization(x, ones, 0 * ones, ones * mean, ones * variance)


RAW: dict[str, Begin] = {
    "tf": lambda b, x: b.op.Sub(b.op.Mul(x, 1 / 127.5), 1.0),
    "tf the other way round": lambda b, x: b.op.Add(-1.0, b.op.Div(x, 127.5)),
    "x/255": lambda b, x: b.op.Div(x, 255.0),
    "torch": lambda b, x: b.op.Div(b.op.Sub(b.op.Mul(x, 1 / 255), plane(MEAN)), plane(STD)),
    "caffe": lambda b, x: b.op.Sub(b.op.Identity(x), CAFFE),
    "a batch norm": lambda b, x: norm(b, x, 127, 3000),
}
UNIT: dict[str, Begin] = {
    "torch": lambda b, x: b.op.Div(b.op.Sub(x, plane(MEAN)), plane(STD)),
    "tf": lambda b, x: b.op.Sub(b.op.Mul(x, 2.0), 1.0),
    "255 x": lambda b, x: b.op.Mul(x, 255.0),
    "caffe": lambda b, x: b.op.Sub(b.op.Mul(x, 255.0), CAFFE),
}
NOTHING: dict[str, Begin] = {
    "a convolution": lambda b, x: x,
    "a batch norm of what is normalised": lambda b, x: norm(b, x, 0.01, 1.1),
    "a fork": lambda b, x: b.op.Add(b.op.Div(x, 255.0), b.op.Div(x, 2.0)),
    "1 - x": lambda b, x: b.op.Sub(1.0, x),
}


@pytest.mark.parametrize("begin", RAW.values(), ids=RAW)
@pytest.mark.parametrize("producer", ["pytorch", "tf2onnx"])
def test_a_network_that_scales_raw_pictures(begin: Begin, producer: str) -> None:
    assert guessed(begin, producer) == (
        Preprocessing.preset("raw", height=8, width=6),
        "preprocessing is not in the file: assumed 'raw' (0..255, RGB), as the network begins by scaling "
        "such pictures; say --preprocess otherwise",
    )


@pytest.mark.parametrize("begin", UNIT.values(), ids=UNIT)
@pytest.mark.parametrize("producer", ["pytorch", "tf2onnx"])
def test_a_network_that_scales_pictures_between_0_and_1(begin: Begin, producer: str) -> None:
    preprocessing, why = guessed(begin, producer)
    assert preprocessing == Preprocessing(scale=1 / 255, height=8, width=6)
    assert "assumed x/255 (0..1, RGB), as the network begins by scaling such pictures" in why


@pytest.mark.parametrize("begin", NOTHING.values(), ids=NOTHING)
def test_without_a_sign_the_writer_of_the_file_decides(begin: Begin) -> None:
    preprocessing, why = guessed(begin, "pytorch")
    assert preprocessing == Preprocessing.preset("torch", height=8, width=6)
    assert (
        "assumed 'torch' (x/255, then ImageNet's mean and deviation, RGB), as PyTorch wrote the file" in why
    )
    preprocessing, why = guessed(begin, "tf2onnx")
    assert preprocessing == Preprocessing.preset("tf", height=8, width=6)
    assert "assumed 'tf' (x/127.5 - 1, RGB), as nothing in it tells more" in why


def test_channels_last() -> None:
    shape = ("n", 8, 6, 3)
    for begin in (
        lambda b, x: first(b, b.op.Sub(b.op.Div(x, 127.5), 1.0)),
        lambda b, x: b.op.Sub(first(b, x), CAFFE),
    ):
        preprocessing, _ = guessed(begin, shape=shape)
        assert preprocessing == Preprocessing(height=8, width=6, layout="nhwc")


def test_whole_numbers() -> None:
    preprocessing, why = guessed(lambda b, x: b.op.Cast(x, to=1), dtype=np.uint8)
    assert preprocessing == Preprocessing(height=8, width=6)
    assert "as the network takes whole numbers (uint8)" in why


def test_grey_pictures() -> None:
    shape = ("n", 1, 8, 6)
    preprocessing, why = guessed(lambda b, x: x, "pytorch", shape)
    assert preprocessing == Preprocessing(scale=1 / 255, height=8, width=6, channels="grey")
    assert "assumed x/255 (0..1, grey), as PyTorch wrote the file" in why
    preprocessing, why = guessed(lambda b, x: b.op.Mul(x, 1 / 255), "pytorch", shape)
    assert preprocessing == Preprocessing(height=8, width=6, channels="grey")
    assert "'raw' (0..255, grey)" in why


def test_what_is_said_is_not_guessed(small: onnx.ModelProto, tmp_path: Any) -> None:
    path = Model.of(small, preprocessing=Preprocessing(height=8, width=6)).save(tmp_path / "said.onnx")
    assert Model.load(path).assumptions == ()
