"""Visualize: pictures that are known beforehand, what is reached, and what goes wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import Said
from small_network import small_network

from cnnkit import (
    Builder,
    Context,
    Host,
    Image,
    Model,
    ModelSpec,
    Operation,
    Preprocessing,
    Session,
    Settings,
    TrainingSession,
    UsageError,
)
from cnnkit import run as cnnkit_run
from cnnkit.host.context import LogReporter
from cnnkit.plugins.visualize import Drawn, VisualizeOptions, visualize

OPERATION = Operation("visualize", visualize, VisualizeOptions, takes="nothing")
HOST = Host()
ONE_THREAD = Settings(threads=1)  # more only wait for each other in networks as small as these


def run(model: Model, said: Said | None = None, seed: int = 0, **options: Any) -> Any:
    options = {"steps": 8, **options}
    return cnnkit_run(
        OPERATION,
        model=model,
        host=HOST,
        seed=seed,
        settings=ONE_THREAD,
        reporter=said or Said(),
        **options,
    )


def colours(
    depth: int = 3, bias: float = 0.0, labels: tuple[str, ...] = (), dtype: Any = np.float32
) -> Model:
    """Channel k of the layer `more` is how much more there is of colour k than of the next one."""
    kernel = (np.eye(depth) - np.roll(np.eye(depth), 1, axis=1) * (depth > 1))[..., None, None]
    b = Builder()
    picture = b.input("picture", ["batch", depth, 16, 16], dtype)
    x = b.op.Conv(picture, kernel.astype(dtype), np.full(depth, bias, dtype), name="difference")
    x = b.op.Relu(x, name="more")
    b.output(
        b.op.Softmax(b.op.Flatten(b.op.GlobalAveragePool(x), name="mean"), name="likely"), ["batch", depth]
    )
    return Model.of(
        b.model(),
        preprocessing=Preprocessing.preset("tf", channels="rgb" if depth == 3 else "grey"),
        labels=labels,
        name="colours",
    )


@pytest.fixture(scope="module")
def small() -> Model:
    return small_network(size=(32, 32))


# Pictures that are known


@pytest.mark.parametrize("numbers", ["fourier", "pixels"])
@pytest.mark.parametrize("palette", ["decorrelated", "plain"])
def test_what_wants_red_without_green_becomes_so(numbers: str, palette: str) -> None:
    result = run(colours(), layer="more", steps=60, rate=0.2, parametrisation=numbers, colours=palette)
    for channel in range(3):
        means = result.pictures[f"more-{channel}"].pixels.mean(axis=(0, 1))
        assert means[channel] > means[(channel + 1) % 3] + 100
    assert result.arrays["channels"].tolist() == [0, 1, 2]
    assert (result.arrays["activations"].argmax(axis=1) == [0, 1, 2]).all()


def test_a_grey_network_has_grey_pictures() -> None:
    result = run(colours(1), layer="difference", steps=30, rate=0.3, parametrisation="pixels")
    pixels = result.pictures["difference-0"].pixels
    assert pixels.min() > 200 and (pixels == pixels[..., :1]).all()


def test_classes_are_climbed_before_the_softmax() -> None:
    model = colours(bias=3, labels=("red, reddish", "green", "blue"))
    result = run(model, classes="blue,0", steps=40, rate=0.3, parametrisation="pixels")
    assert [row["class"] for row in result.data["drawn"]] == [2, 0]
    assert result.data["drawn"][1]["label"] == "red, reddish"
    assert result.pictures["blue-2"].pixels[..., 2].mean() > 200
    assert result.pictures["red-0"].pixels[..., 0].mean() > 200
    assert "  red: " in result.text
    assert result.data["drawn"][0]["end"] > 4  # a probability never is


def test_the_neuron_in_the_middle_wants_something_there_alone() -> None:
    noise = run(colours(), layer="more", channels="0", steps=1, rate=0.0, transforms="none")
    result = run(
        colours(),
        layer="more",
        channels="0",
        steps=60,
        rate=0.3,
        objective="neuron",
        transforms="none",
        parametrisation="pixels",
    )
    before, after = (each.pictures["more-0"].pixels for each in (noise, result))
    moved = np.abs(after.astype(int) - before).max(axis=2)
    assert moved[8, 8] > 100
    moved[8, 8] = 0
    assert moved.max() <= 3  # the noise of the start is that of another parametrisation


# What is reached


def test_every_channel_rises_and_is_measured_on_the_saved_picture(small: Model) -> None:
    result = run(small, layer="two", channels="all", steps=20)
    assert [row["channel"] for row in result.data["drawn"]] == list(range(8))
    for number, row in enumerate(result.data["drawn"]):
        assert row["end"] > 1.5 * row["start"] and not row["silent"]
        x = small.preprocessing.to_network(result.pictures[f"two-{number}"].pixels)[None]
        answers = Session(small).run(x, ["two"])["two"].mean(axis=(0, 2, 3))
        assert row["end"] == pytest.approx(answers[number], rel=1e-6)
        np.testing.assert_allclose(result.arrays["activations"][number], answers, rtol=1e-5)
    assert result.picture.width > 3 * 32


def test_a_layer_dreams_in_one_picture(small: Model) -> None:
    result = run(small, layer="two", objective="dream", steps=20)
    (row,) = result.data["drawn"]
    assert row["end"] > 1.5 * row["start"]
    assert {*result.pictures} == {"", "two"} and result.arrays["activations"].shape == (1, 1)


def test_a_dream_counts_no_squares_of_what_the_activation_cuts_off() -> None:
    """x + 0.1 and 3x - 0.2 are large in white, 1; the square of the second rises towards black, -1, too."""
    b = Builder()
    kernel, bias = np.array([1, 3], np.float32).reshape(2, 1, 1, 1), np.array([0.1, -0.2], np.float32)
    x = b.op.Conv(b.input("picture", ["batch", 1, 16, 16]), kernel, bias, name="both")
    b.output(b.op.Relu(x, name="more"))
    model = Model.of(b.model(), preprocessing=Preprocessing.preset("tf", channels="grey"), name="ramps")
    options = {"layer": "more", "objective": "dream", "steps": 40, "rate": 0.2, "transforms": "none"}
    white, black = (
        run(model, parametrisation="pixels", **options, **more).data["drawn"][0]["end"]
        for more in ({}, {"tap": "before"})
    )
    assert white == pytest.approx((1.1**2 + 2.8**2) / 2, rel=0.05) and black == 0


@pytest.mark.parametrize("objective", ["channel", "neuron", "dream"])
def test_a_network_of_half_precision(objective: str) -> None:
    whole, half = (
        run(colours(dtype=dtype), layer="more", objective=objective, steps=20, rate=0.2).arrays["activations"]
        for dtype in (np.float32, np.float16)
    )
    np.testing.assert_allclose(half, whole, rtol=0.02, atol=0.01)


def test_the_layout_of_a_network_makes_no_difference(small: Model) -> None:
    other = small_network("nhwc", size=(32, 32))
    first, second = (
        run(model, layer=layer, channels="3", tap="after").arrays["activations"]
        for model, layer in ((small, "two"), (other, "to_nhwc"))
    )
    np.testing.assert_allclose(first, second, rtol=1e-2)


def test_a_dense_layer_has_channels_too() -> None:
    (row,) = run(colours(), layer="mean", channels="2", steps=20, rate=0.3).data["drawn"]
    assert row["end"] > 0.5


def test_the_same_seed_gives_the_same_picture_whatever_else_is_drawn(small: Model) -> None:
    alone = run(small, layer="two", channels="3").pictures["two-3"].pixels
    among = run(small, layer="two", channels="0,3,5:7")
    assert {*among.pictures} == {"", "two-0", "two-3", "two-5", "two-6"}
    np.testing.assert_array_equal(among.pictures["two-3"].pixels, alone)
    assert (run(small, layer="two", channels="3", seed=1).pictures["two-3"].pixels != alone).any()


def test_a_network_of_any_size_is_shown_224_pixels_or_what_was_asked_for() -> None:
    from dataclasses import replace

    free = small_network()
    assert run(free, layer="one", channels="0", steps=1).pictures["one-0"].size == (224, 224)
    asked = replace(free, preprocessing=replace(free.preprocessing, height=16, width=24))
    assert run(asked, layer="one", channels="0", steps=1).pictures["one-0"].size == (16, 24)


def test_one_session_draws_them_all(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    begin = TrainingSession.__init__

    def counted(self: Any, *arguments: Any, **more: Any) -> None:
        made.append(self)
        begin(self, *arguments, **more)

    monkeypatch.setattr(TrainingSession, "__init__", counted)
    host = Host()
    for channels in ("0:4", "5"):
        options = {"layer": "pool", "channels": channels, "steps": 2}
        cnnkit_run(OPERATION, model=small, host=host, reporter=Said(), **options)
    assert len(made) == 1


# What does not go well


def test_a_channel_that_nothing_excites_is_said_to_be_silent() -> None:
    said = Said()
    result = run(colours(bias=-9.0), said, layer="more", channels="1", tap="after")
    assert result.data["drawn"] == [{"channel": 1, "start": 0.0, "end": 0.0, "silent": True}]
    assert "1: 0 -> 0, silent" in result.text
    assert any("1: 0 -> 0, silent: nothing moves it; try --tap before" in line for line in said.lines)


def test_silent_is_what_stays_at_zero_or_where_it_was() -> None:
    picture = Image(np.zeros((1, 1, 3), np.uint8))
    found = [
        Drawn(0, picture, start, end).silent for start, end in [(0, 0), (2, 0), (2, 2), (2, 1), (-2, -1)]
    ]
    assert found == [True, True, True, False, False]


def test_what_may_help_a_silent_channel_is_said() -> None:
    said = Said()
    run(colours(bias=-9.0), said, layer="more", channels="1", steps=1)
    assert said.lines == ["1: 0 -> 0, silent: nothing moves it; try more --steps or another --seed"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--layer or --classes must be given: layers of 'colours' are difference, more"),
        ({"layer": "mroe"}, "no layer is called 'mroe'. Did you mean 'more'?"),
        ({"layer": "0:2"}, "names 2 layers"),
        ({"layer": "more", "channels": "0:2,3"}, "--channels 0:2,3: no such channel; the layer 'more' has 3"),
        ({"layer": "more", "channels": "5:4"}, "no such channel"),
        ({"layer": "more", "channels": "red"}, "say numbers from 0 up and ranges"),
        ({"layer": "more", "channels": "1", "objective": "dream"}, "leave out --channels"),
        ({"layer": "more", "classes": "1"}, "say one"),
        ({"tap": "after", "classes": "1"}, "say one"),
        ({"classes": "top:2"}, "depends on a picture"),
        ({"classes": "7"}, "7"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        run(colours(), **options)
    assert says in str(refused.value)


class Stopping(Context):
    """Keeps checkpoints in memory, and is interrupted after so many steps."""

    def __init__(self, after: int | None, kept: dict[str, Any] | None = None) -> None:
        super().__init__(HOST, ONE_THREAD, 3, LogReporter())
        self.after, self.kept, self.shown, self.steps = after, kept, [], 0  # type: ignore[var-annotated]

    def progress(self, items: Any, total: Any = None, label: Any = "") -> Any:
        for item in items:
            yield item
            assert label()
            self.steps += 1
            if self.steps == self.after:
                raise KeyboardInterrupt
        assert self.steps == total

    def save(self, state: Any) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        buffer.seek(0)
        self.kept = dict(np.load(buffer))

    def restore(self) -> Any:
        return self.kept

    def emit(self, result: Any) -> None:
        self.shown.append(result)


def test_an_interrupted_run_keeps_what_is_done_and_goes_on_with_the_rest(small: Model) -> None:
    options = VisualizeOptions(layer="two", channels="2,0,6", steps=5)
    whole = visualize(None, small, options, Stopping(None))
    first = Stopping(12)
    with pytest.raises(KeyboardInterrupt):
        visualize(None, small, options, first)
    assert [{*shown.pictures} for shown in first.shown] == [{"two-2"}, {"two-0"}, {"", "two-2", "two-0"}]
    second = Stopping(None, first.kept)
    rest = visualize(None, small, options, second)
    assert second.steps == 5
    assert rest.text == whole.text and rest.data == whole.data
    for name, picture in whole.pictures.items():
        np.testing.assert_array_equal(rest.pictures[name].pixels, picture.pixels)


# Real networks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layer"),
    [("default", "block3_conv2"), ("default", "block4_conv2"), ("mobilenet_v2_1.0_224.onnx", "Add_56")],
)
def test_a_channel_is_excited_five_times_as_much_as_by_photographs(
    network: str, layer: str, data: Path
) -> None:
    """Of MobileNetV2 a layer without a ceiling: behind a ReLU6 many means are above a fifth of its 6."""
    path = data / "weights" / network
    model = HOST.model(ModelSpec(str(path) if path.suffix else network))
    result = run(model, layer=layer, channels="0:6", steps=VisualizeOptions.steps)
    (tensor,) = (found.tensor for found in model.find(layer))
    session = Session(model)
    means = [
        session.run(model.preprocessing.apply(Image.load(path)).tensor, [tensor])[tensor].mean(axis=(0, 2, 3))
        for path in sorted((data / "images").rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    assert len(means) > 100
    photographs = np.abs(np.mean(means, axis=0)[:6])
    ratios = np.diagonal(result.arrays["activations"]) / photographs
    print(network, layer, np.round(ratios, 1))
    assert (ratios >= 5).all()
