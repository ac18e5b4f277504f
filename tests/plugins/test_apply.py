"""Networks that make pictures, over pictures of any size, at once and in tiles."""

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from painters import UNIT, Painter, style, super_resolution
from small_network import picture as waves
from small_network import small_network

import cnnkit
from cnnkit import Image, Model, ModelError, Preprocessing, Session, UsageError
from cnnkit.host.context import LogReporter
from cnnkit.plugins.apply import OVERHEAD, ApplyOptions, planned, strips
from cnnkit.plugins.picture_networks import picture_network
from cnnkit.plugins.tiling import Axis, mirrored

Array = NDArray[np.float32]


class Said(LogReporter):
    """What the operation said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    return np.clip(waves(height, width), 0, 255).astype(np.uint8)


def numbers(pixels: NDArray[np.uint8], model: Model, **options: Any) -> Array:
    """What the network makes, before it is rounded: (height, width, channels)."""
    context = cnnkit.Context(cnnkit.Host(), cnnkit.Settings(device="cpu"), 0, LogReporter())
    asked, image = ApplyOptions(**options), Image.load(pixels)
    network = picture_network(model, asked.input_range, asked.output_range, context)
    found = list(strips(network, image, planned(network, image, asked, context), context))
    assert [top for top, _ in found] == np.cumsum([0, *(len(strip) for _, strip in found[:-1])]).tolist()
    return np.concatenate([strip for _, strip in found])


def alone(pixels: NDArray[np.uint8], model: Model) -> Array:
    """What the network makes of pixels in one run, nothing around them."""
    fed = model.preprocessing.to_network(pixels)[None]
    (made,) = Session(model, device="cpu").run(fed).values()
    return np.moveaxis(made[0], 0, -1) if model.graph.layout == "nchw" else made[0]


@pytest.mark.parametrize("size", [(131, 97), (96, 140), (48, 300)])
@pytest.mark.parametrize("tile", [80, 96])
def test_tiles_make_what_the_whole_picture_does(size: tuple[int, int], tile: int) -> None:
    pixels, model = photograph(*size), style()
    whole, tiled = numbers(pixels, model), numbers(pixels, model, tile=tile)
    assert whole.shape == tiled.shape == (*size, 3) and np.ptp(whole) > 0.5
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-4)


def test_the_whole_picture_is_what_the_network_makes_of_it() -> None:
    """Sides that are no multiples of the stride are mirrored up to one, and cut again."""
    pixels, model = photograph(62, 45), style()
    np.testing.assert_array_equal(numbers(pixels[:60, :44], model), alone(pixels[:60, :44], model))
    mirror = np.pad(pixels, ((0, 2), (0, 3), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(numbers(pixels, model), alone(mirror, model)[:62, :45])


def test_half_the_halo_is_not_enough() -> None:
    pixels, model = photograph(131, 97), style()
    whole = numbers(pixels, model)
    halo = cnnkit.reach(model.graph).halo[0]
    assert np.abs(numbers(pixels, model, tile=96, halo=halo // 2) - whole).max() > 1e-3


def test_instance_normalisation_forbids_tiles_and_says_so() -> None:
    pixels, model, said = photograph(200, 180), style("InstanceNormalization"), Said()
    result = cnnkit.run("apply", pixels, model=model, tile=96, reporter=said)
    (line,) = [line for line in said.lines if "tiles" in line]
    assert (
        "tiles do not make what the whole picture would, as the layer 'norm_0' (and 3 more like it)" in line
    )
    assert "looks at the whole picture; they are blended" in line
    assert not result.data["seamless"] and len(result.data["looks_at_the_whole"]) == 4
    said = Said()
    whole = cnnkit.run("apply", pixels, model=model, reporter=said)
    assert whole.data["tiles"] == 1 and whole.data["seamless"]
    assert not any("tiles" in line for line in said.lines)
    np.testing.assert_array_equal(numbers(pixels, model), alone(pixels, model))


def test_blended_tiles_have_no_seams() -> None:
    """A network that paints each tile in its mean colour: from one to the next, the colour goes up evenly."""
    net = Painter()
    mean = net.b.op.ReduceMean(net.x, [2, 3])
    net.x = net.b.op.Add(net.b.op.Mul(net.x, 0.0), mean)
    pixels = np.zeros((20, 220, 3), np.uint8)
    pixels[...] = np.arange(220, dtype=np.uint8)[:, None]
    (line,) = numbers(pixels, net.model(), tile=80)[10:11, :, 0] * 255
    means = [start + 79 / 2 for start in (0, 70, 140)]  # each tile fades in over its first 10 pixels
    np.testing.assert_allclose(line[[60, 100, 215]], means, rtol=1e-5)
    np.testing.assert_allclose(np.diff(line)[70:79], 7, rtol=1e-4)
    assert np.abs(np.diff(line)).max() < 7.001


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("tile", [None, 20])
def test_super_resolution(factor: int, tile: int | None) -> None:
    pixels, model = photograph(31, 37), super_resolution(factor)
    found = numbers(pixels, model, tile=tile)
    assert found.shape == (31 * factor, 37 * factor, 3)
    np.testing.assert_allclose(found, alone(pixels, model), rtol=0, atol=1e-5)


def test_lightness_by_the_network_colours_by_the_picture() -> None:
    """A network that sees in grey leaves the colours: as if Y of YCbCr had been replaced."""
    net = Painter(1)
    net.x = net.b.op.Mul(net.x, 0.5)
    model = net.model(Preprocessing(scale=1 / 255, channels="grey"))
    pixels = np.array([[[200, 100, 50], [80, 80, 80]]], np.uint8)
    found = cnnkit.run("apply", pixels, model=model).picture.pixels.astype(int)
    lightness = pixels @ np.array([0.299, 0.587, 0.114])
    expected = np.clip(pixels - lightness[..., None] / 2, 0, 255)
    np.testing.assert_allclose(found, expected, atol=0.51)
    large = cnnkit.run("apply", photograph(20, 16), model=super_resolution(2, 1)).picture
    assert large.size == (40, 32)


def test_fixed_size_is_the_size_of_tiles() -> None:
    """Zoo networks take 224 x 224, and the picture is larger, or smaller."""
    free, fixed = super_resolution(3, 1), super_resolution(3, 1, (24, 32))
    for size in [(61, 40), (10, 90), (24, 32), (1, 1)]:
        pixels = photograph(*size)
        found = numbers(pixels, fixed)
        assert found.shape == (3 * size[0], 3 * size[1], 1)
        expected = numbers(pixels, free)
        inside = np.s_[: 3 * (size[0] - 4), : 3 * (size[1] - 4)]  # beyond, the mirror and zeros differ
        np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="--tile 64 is not possible: the network 'painter' takes 24x32"):
        cnnkit.run("apply", pixels, model=fixed, tile=64)


def last() -> Model:
    """Channels last: the mean of three columns."""
    b = cnnkit.Builder("last")
    x = b.op.Transpose(b.input("picture", ["batch", "height", "width", 3]), perm=[0, 3, 1, 2])
    kernel = np.zeros((3, 3, 1, 3), np.float32)
    kernel[range(3), range(3)] = 1 / 3
    x = b.op.Conv(x, kernel, pads=[0, 1, 0, 1])
    b.output(b.op.Transpose(x, perm=[0, 2, 3, 1]))
    return Model.of(b.model(), preprocessing=Preprocessing(layout="nhwc"), name="last")


def test_channels_last() -> None:
    pixels = photograph(40, 50)
    np.testing.assert_allclose(numbers(pixels, last(), tile=16), alone(pixels, last()), rtol=0, atol=1e-3)
    whole = cnnkit.run("apply", pixels, model=last()).picture.pixels
    mean = (pixels[:, :-2].astype(int) + pixels[:, 1:-1] + pixels[:, 2:]) / 3
    np.testing.assert_allclose(whole[:, 1:-1], mean, atol=0.51)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2), (9, 9)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    pixels = photograph(*size)
    for model, factor in ((style(), 1), (super_resolution(2), 2)):
        found = cnnkit.run("apply", pixels, model=model, tile=100).picture
        assert found.size == (factor * size[0], factor * size[1])
    flat = np.full((*size, 3), 77, np.uint8)  # mirrored, one colour stays one colour
    net = Painter()
    net.x = net.b.op.Mul(net.x, 1.0)
    assert (cnnkit.run("apply", flat, model=net.model()).picture.pixels == 77).all()


def test_margins_that_a_network_cuts_off_are_mirrored_first() -> None:
    """Without padding inside, as waifu2x has it: the result still lies over the picture."""
    net = Painter()
    kernel = np.zeros((3, 3, 5, 5), np.float32)
    kernel[range(3), range(3), 2, 2] = 1
    net.x = net.b.op.Conv(net.x, kernel)
    pixels, model = photograph(33, 47), net.model()
    for options in ({}, {"tile": 16}, {"tile": 16, "halo": 0}):
        np.testing.assert_array_equal(
            cnnkit.run("apply", pixels, model=model, **options).picture.pixels, pixels
        )


def test_transparency_and_profile_stay() -> None:
    rgba = np.dstack([photograph(20, 24), np.full((20, 24), 128, np.uint8)])
    rgba[:5, :, 3] = 0
    found = cnnkit.run("apply", rgba, model=super_resolution(2)).picture
    assert found.alpha is not None and found.alpha.shape == (40, 48)
    assert found.alpha[0, 0] == 0 and found.alpha[-1, -1] == 128
    same = cnnkit.run("apply", rgba, model=style()).picture
    np.testing.assert_array_equal(same.alpha, rgba[..., 3])


def test_a_network_may_make_transparency() -> None:
    net = Painter()
    net.x = net.b.op.Concat(net.x, net.b.op.ReduceMean(net.x, [1]), axis=1)
    pixels = photograph(8, 9)
    found = cnnkit.run("apply", pixels, model=net.model()).picture
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.alpha is not None
    np.testing.assert_allclose(found.alpha, pixels.mean(axis=2), atol=0.51)


def ended(*nodes: tuple[str, Any], preprocessing: Preprocessing = UNIT) -> Model:
    """The picture, through these operators, each with a number."""
    net = Painter()
    for operator, number in nodes:
        given = [] if number is None else number if isinstance(number, list) else [number]
        net.x = net.b.append(operator, [net.x, *given])
    return net.model(preprocessing)


@pytest.mark.parametrize(
    "model, meaning",
    [
        (ended(("Sigmoid", None)), "0..1"),
        (ended(("Tanh", None)), "-1..1"),
        (ended(("Tanh", None), ("Add", 1.0), ("Div", 2.0)), "0..1"),
        (ended(("Tanh", None), ("Mul", 150.0), ("Add", 127.5)), "0..255"),
        (ended(("Clip", [0.0, 1.0])), "0..1"),
        (ended(("Clip", [0.0, 255.0]), preprocessing=Preprocessing()), "0..255"),
    ],
)
def test_the_last_layer_says_what_numbers_mean(model: Model, meaning: str) -> None:
    said, pixels = Said(), photograph(6, 7)
    found = cnnkit.run("apply", pixels, model=model, reporter=said).picture.pixels
    (line,) = [line for line in said.lines if "--output-range" in line]
    assert f"taken for {meaning}, as its last layer says" in line
    low, high = {"0..1": (0, 1), "-1..1": (-1, 1), "0..255": (0, 255)}[meaning]
    expected = np.clip((alone(pixels, model) - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_an_open_end_makes_what_it_is_fed() -> None:
    """Whatever the preprocessing, an identity changes nothing."""
    pixels = photograph(6, 7)
    for preset in ("caffe", "tf", "torch", "raw"):
        model = ended(("Identity", None), preprocessing=Preprocessing.preset(preset))
        np.testing.assert_array_equal(cnnkit.run("apply", pixels, model=model).picture.pixels, pixels)
        found = cnnkit.run("apply", pixels, model=model, input_range="0..1", output_range="-1..1").picture
        np.testing.assert_allclose(found.pixels, 127.5 + pixels / 2.0, atol=0.51)


def test_what_nobody_says_is_tried(tmp_path: Path) -> None:
    """A file without preprocessing: the size of what it makes tells a network of 0..255 from one of 0..1."""
    for factor, word in ((1.0, "0..1"), (100.0, "0..255")):
        net = Painter()
        net.x = net.b.op.Mul(net.b.op.InstanceNormalization(net.x, *np.ones((2, 3), np.float32)), factor)
        net.b.output(net.x)
        path = tmp_path / f"{factor:g}.onnx"
        path.write_bytes(net.b.model().SerializeToString())
        said = Said()
        cnnkit.run("apply", photograph(9, 9), model=path, reporter=said)
        (line,) = [line for line in said.lines if "--input-range" in line]
        assert f"fed with {word}, as the numbers that it makes of 0..1 differ by up to" in line
        said = Said()
        spec = cnnkit.ModelSpec(str(path), preprocess="torch")
        cnnkit.run("apply", photograph(9, 9), model=spec, reporter=said)
        assert not [line for line in said.lines if "--input-range" in line]


def test_memory_decides_where_the_user_does_not() -> None:
    pixels, model = photograph(120, 110), style()
    needed = cnnkit.measure(model.graph, 120, 112).bytes_per_item
    for share, tiles in ((OVERHEAD * 1.01, 1), (OVERHEAD * 0.9, 4)):
        settings = cnnkit.Settings(device="cpu", max_memory=int(share * needed))
        found = cnnkit.run("apply", pixels, model=model, settings=settings)
        assert found.data["tiles"] == tiles
    with pytest.raises(
        UsageError, match=r"too small for a halo of \d+ on both sides: take --tile \d+ or more"
    ):
        cnnkit.run("apply", pixels, model=model, settings=cnnkit.Settings(max_memory=1000))


def test_classifiers_are_turned_away() -> None:
    with pytest.raises(ModelError, match="'small' makes no picture: it has 8 scores: `cnnkit run classify`"):
        cnnkit.run("apply", photograph(20, 20), model=small_network())
    many = Painter().conv(5, 3).model()
    with pytest.raises(
        ModelError, match="makes no picture: its output 'Conv_0' has 5 channels, not 1, 3 or 4"
    ):
        cnnkit.run("apply", photograph(20, 20), model=many)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_tiles_cover_everything_once(data: Any) -> None:
    """Weights add up to 1, and every number of the result comes from its own place."""
    scale = data.draw(
        st.sampled_from([Fraction(1), Fraction(2), Fraction(3), Fraction(1, 2), Fraction(3, 2)])
    )
    stride = scale.denominator * data.draw(st.integers(1, 4))
    halo, ramp = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    missing = 2 * data.draw(st.integers(0, 4))
    fixed = data.draw(st.none() | st.integers(10, 20).map(lambda tiles: tiles * stride * 2))
    axis = Axis(data.draw(st.integers(1, 200)), scale, missing, stride, stride, fixed)
    side = data.draw(st.integers(1, 100))
    try:
        pieces = axis.pieces(side, halo, ramp)
    except UsageError:
        assert (fixed or side) < 2 * halo + ramp + 5 * stride + 2 * missing / scale
        return
    (tile,) = {len(piece.pixels) for piece in pieces}
    assert tile == fixed if fixed else tile <= max(side, stride) and tile % stride == 0
    total = np.zeros(axis.made)
    for piece in pieces:
        assert (
            len(piece.pixels) == tile and 0 <= piece.part.start and piece.part.stop <= tile * scale - missing
        )
        assert piece.pixels.min() >= 0 and piece.pixels.max() < axis.length
        total[piece.place] += piece.weights
        middle = (np.arange(piece.place.start, piece.place.stop) + 0.5) / float(scale)  # in pixels
        seen = (np.arange(piece.part.start, piece.part.stop) + missing / 2 + 0.5) / float(scale)
        inside = (middle < axis.length) & (middle > 0)
        shown = piece.pixels[np.floor(seen[inside]).astype(int)]
        np.testing.assert_array_equal(shown, np.floor(middle[inside]).astype(int))
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.made == -(-axis.length * scale.numerator // scale.denominator)


def test_mirrored_again_and_again() -> None:
    assert mirrored(np.arange(-4, 9), 3).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert mirrored(np.arange(-2, 3), 1).tolist() == [0, 0, 0, 0, 0]
    expected = np.pad(np.arange(5), (3, 4), mode="reflect")
    assert mirrored(np.arange(-3, 9), 5).tolist() == expected.tolist()


EXPORTERS = [pytest.param(False, id="old"), pytest.param(True, id="new", marks=pytest.mark.slow)]


def exported(normalisation: str, folder: Path, dynamo: bool) -> tuple[Any, Path]:
    """A network in the manner of pytorch/examples fast_neural_style, seeded, and its ONNX file."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    norm = {"instance": lambda c: nn.InstanceNorm2d(c, affine=True), "batch": nn.BatchNorm2d}[normalisation]

    def conv(before: int, after: int, kernel: int, stride: int = 1) -> Any:
        return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(before, after, kernel, stride))

    class Residual(nn.Module):  # type: ignore[misc]
        def __init__(self, channels: int) -> None:
            super().__init__()
            first, second = (nn.Sequential(conv(channels, channels, 3), norm(channels)) for _ in range(2))
            self.body = nn.Sequential(first, nn.ReLU(), second)

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    up = nn.Upsample(scale_factor=2, mode="nearest")
    network = nn.Sequential(
        conv(3, 4, 9), norm(4), nn.ReLU(), conv(4, 6, 3, 2), norm(6), nn.ReLU(), conv(6, 8, 3, 2),
        Residual(8), up, conv(8, 6, 3), nn.ReLU(), up, conv(6, 4, 3), nn.ReLU(), conv(4, 3, 9),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval(), written(network, folder / "network.onnx", dynamo)


def written(network: Any, path: Path, dynamo: bool) -> Path:
    """As torch exports it, for pictures of any size."""
    import torch

    x = torch.rand(1, next(network.parameters()).shape[1], 32, 48)
    free = {0: "batch", 2: "height", 3: "width"}
    shapes: Any = {"dynamic_shapes": (free,)} if dynamo else {"dynamic_axes": {"input": free, "output": free}}
    names: Any = {"input_names": ["input"], "output_names": ["output"]}
    with warnings.catch_warnings():  # the old exporter warns of its age
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=dynamo, verbose=False, **names, **shapes)
    return path


@pytest.mark.oracle
@pytest.mark.parametrize("normalisation", ["instance", "batch"])
@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_an_exported_network_as_torch_runs_it(normalisation: str, dynamo: bool, tmp_path: Path) -> None:
    import torch

    network, path = exported(normalisation, tmp_path, dynamo)
    model, pixels = Model.load(path), photograph(131, 97)
    fed = torch.from_numpy(np.pad(pixels, ((0, 1), (0, 3), (0, 0)), mode="reflect") / np.float32(255))
    with torch.no_grad():
        expected = network(fed.movedim(-1, 0)[None])[0].movedim(0, -1).numpy()[:131, :97]
    whole = numbers(pixels, model, input_range="0..1")
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-4)
    tiled = numbers(pixels, model, input_range="0..1", tile=104)
    looks = cnnkit.reach(model.graph)
    assert looks.scale == (1, 1) and looks.stride == (4, 4) and looks.halo == (25, 25)
    assert len(looks.whole) == (4 if normalisation == "instance" else 0)
    if normalisation == "batch":
        np.testing.assert_allclose(tiled, expected, rtol=0, atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_an_exported_pixel_shuffle_as_torch_runs_it(dynamo: bool, tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.Conv2d(6, 9, 3, padding=1), nn.PixelShuffle(3)
    )
    model, pixels = Model.load(written(network, tmp_path / "network.onnx", dynamo)), photograph(31, 40)
    grey = model.preprocessing.to_network(pixels)[None]
    with torch.no_grad():
        expected = network(torch.from_numpy(grey))[0, 0].numpy()
    for tile in (None, 16):
        np.testing.assert_allclose(numbers(pixels, model, tile=tile)[..., 0], expected, rtol=0, atol=1e-5)
