"""Reconstruction: linear networks, whose inversion is known; priors; and a series that is interrupted."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pillow
from small_network import picture, small_network
from stopping import Stopping

import cnnkit
from cnnkit import Builder, Image, Model, Preprocessing, Session, UsageError
from cnnkit.plugins.reconstruct import ReconstructOptions, easels, reconstruct
from cnnkit.plugins.synthesis.coefficients import DEVIATION
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.run import Run
from cnnkit.plugins.synthesis.similarity import psnr, structural_similarity

Array = NDArray[Any]
PHOTO = picture(18, 24).clip(0, 255).astype(np.uint8)
GREY = np.array([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plot takes longer than these runs, and `test_record.py` looks at it."""
    monkeypatch.setattr("cnnkit.plugins.synthesis.series.plot_of", lambda records: b"")


@pytest.fixture(scope="module")
def network() -> Model:
    return small_network()


def run(model: Model, source: Any = PHOTO, **options: Any) -> cnnkit.Result:
    given = {"size": "24", "iterations": 4, "layers": ["one", "two"]} | options
    return cnnkit.run("reconstruct", source, model=model, **given)


# A linear network


def convolution(outputs: int = 5) -> Model:
    """One convolution with a bias and no activation, layer `linear`, for Caffe's numbers."""
    random = np.random.default_rng(1)
    b = Builder("linear")
    x = b.input("picture", ["batch", 3, "height", "width"])
    kernel = b.constant(random.standard_normal((outputs, 3, 3, 3), np.float32), "kernel")
    bias = b.constant(random.standard_normal(outputs, np.float32) * 20, "bias")
    b.output(b.op.Conv(x, kernel, bias, pads=[1, 1, 1, 1], name="linear"))
    made = b.model({"cnnkit.layers": json.dumps([["linear", "linear"]])})
    return Model.of(made, preprocessing=Preprocessing.preset("caffe"), name="linear")


def task_of(model: Model, source: Any, **options: Any) -> Easel:
    given = ReconstructOptions(layers=("linear",), **options)
    (task,) = easels(Image.load(source), model, given, Stopping()).values()
    return task


def moved(model: Model, source: Any, **options: Any) -> tuple[Array, Run]:
    """x where it ends, (1, 3, height, width), and its run."""
    (task,) = easels(
        Image.load(source), model, ReconstructOptions(layers=("linear",), **options), Stopping()
    ).values()
    run = Run(task)
    run.go(lambda state: None)
    return run.synthesis.best_x, run


def test_the_plain_inversion_of_more_channels_than_colours_is_the_picture() -> None:
    source = PHOTO[:8, :10]
    x, _ = moved(convolution(), source, preset="plain", size="8x10", iterations=300)
    expected = Preprocessing.preset("caffe").to_network(source)
    np.testing.assert_allclose(x[0], expected, atol=0.05)


@pytest.mark.parametrize("outputs", [2, 5])
def test_with_the_quadratic_prior_it_is_the_solution_of_a_linear_system(outputs: int) -> None:
    """Of (AᵀA/‖Φ0‖² + v/σ²·½DᵀD) x = AᵀA x0/‖Φ0‖², also where A alone has no inverse."""
    model, (height, width), weight = convolution(outputs), (6, 8), 5.0
    source = PHOTO[:height, :width]
    x, _ = moved(
        model,
        source,
        size="6x8",
        iterations=600,
        variation_weight=weight,
        norm_weight=0.0,
        start="grey",
    )

    count = 3 * height * width
    units = np.eye(count, dtype=np.float32).reshape(count, 3, height, width)
    looked = Session(model).run(np.concatenate([units, np.zeros_like(units[:1])]), ["linear"])["linear"]
    a = (looked[:-1] - looked[-1]).reshape(count, -1).T.astype(np.float64)
    ours = Preprocessing.preset("caffe").to_network(source).astype(np.float64).ravel()
    target = a @ ours + looked[-1].ravel()
    rows = []
    for row, column in np.ndindex(height - 1, width - 1):
        for down, right in ((1, 0), (0, 1)):
            difference = np.zeros((height, width))
            difference[row + down, column + right], difference[row, column] = 1, -1
            rows += [np.kron(np.eye(3)[channel], difference.ravel()) for channel in range(3)]
    d = np.array(rows)
    prior = weight / (2 * count * DEVIATION**2) * d.T @ d
    inverse_power = 1 / (target @ target)
    solution = np.linalg.solve(inverse_power * a.T @ a + prior, inverse_power * a.T @ a @ ours)
    shown = x - Preprocessing(channels="bgr").to_network(
        model.preprocessing.to_pixels(np.zeros((1, 3, 1, 1)))
    )
    np.testing.assert_allclose(shown.ravel(), solution, atol=0.3)
    assert np.abs(solution - ours).mean() > 1


def test_the_losses_are_the_formula() -> None:
    """Σ(F - P)²/ΣP², ½λΣ(dx² + dy²)/σ² and ½λΣ(x - GREY)⁶/σ², at the start."""
    model, source = convolution(), PHOTO[:8, :10]
    options: dict[str, Any] = {"size": "8x10", "variation_weight": 3.0, "norm_weight": 8e-10, "iterations": 1}
    (task,) = easels(
        Image.load(source), model, ReconstructOptions(layers=("linear",), **options), Stopping()
    ).values()
    _, run = moved(model, source, **options)
    first = run.record.rows[0].weighted
    x = task.start((8, 10)).astype(np.float64)
    session = Session(model)
    p = session.run(model.preprocessing.to_network(source)[None], ["linear"])["linear"]
    f = session.run((x - GREY).astype(np.float32), ["linear"])["linear"]
    dx, dy = x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]
    power = 3 * 8 * 10 * DEVIATION**2
    assert first["content linear"] == pytest.approx(((f - p) ** 2).sum() / (p**2).sum(), rel=1e-4)
    assert first["variation"] == pytest.approx(1.5 * (dx**2 + dy**2).sum() / power, rel=1e-4)
    assert first["norm"] == pytest.approx(4e-10 * ((x - GREY) ** 6).sum() / power, rel=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("part", ["content linear", "variation", "norm"])
def test_the_gradient_of_each_part_is_torchs(part: str) -> None:
    import torch
    from torch.nn import functional

    model, source = convolution(), PHOTO[:8, :10]
    task = task_of(model, source, size="8x10")
    session = task.context.training(task.eye, task.objective, ("input",), batch=1, size=(8, 10))
    feeds = dict(task.feeds((8, 10)))
    weights = {name: value for name, value in feeds.items() if name.startswith("weight/")}
    name = f"weight/{part.replace(' ', '/')}"
    start = task.start((8, 10))
    others = dict.fromkeys(weights.keys() - {name}, np.float32(0))
    found = session.gradient({**feeds, **others, name: np.float32(1), "input": start}).gradients["input"]

    x = torch.from_numpy(start).double().requires_grad_()
    grey = torch.tensor(GREY)
    arrays = (model.graph.constant(name) for name in ("kernel", "bias"))
    kernel, bias = (torch.tensor(array, dtype=torch.float64) for array in arrays)
    dx, dy = x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]
    features = functional.conv2d(x - grey, kernel, bias, padding=1)
    loss = {
        "content linear": (features - torch.from_numpy(feeds["content/linear"])).square().mean(),
        "variation": (dx**2 + dy**2).sum(),
        "norm": (x - grey).pow(6).sum(),
    }[part]
    loss.backward()
    expected = x.grad.numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_norm_brings_pixels_into_range() -> None:
    """Without a layer's word on it: of white noise that is far too bright, only what is in range stays."""
    source = np.full((8, 10, 3), 128, np.uint8)
    far, near = (
        moved(convolution(1), source, size="8x10", iterations=30, norm_weight=weight, variation_weight=0.0)[0]
        for weight in (0.0, 1e-6)
    )
    assert np.abs(near - GREY).max() < 110 < np.abs(far - GREY).max()


# The two measures


def test_psnr_of_a_known_error() -> None:
    a = np.zeros((4, 6, 3), np.uint8)
    assert psnr(a + 10, a) == pytest.approx(20 * np.log10(25.5))
    assert psnr(a, a) == np.inf


def test_similarity_of_known_pictures() -> None:
    """1 of equal ones; of two flat ones only the first factor is left."""
    assert structural_similarity(PHOTO, PHOTO) == pytest.approx(1)
    a, b = np.full((12, 12, 3), 100, np.uint8), np.full((12, 12, 3), 150, np.uint8)
    c = (0.01 * 255) ** 2
    assert structural_similarity(a, b) == pytest.approx((2 * 100 * 150 + c) / (100**2 + 150**2 + c))
    assert structural_similarity(PHOTO, 255 - PHOTO) < 0


@pytest.mark.oracle
def test_similarity_is_that_of_scipys_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    other = (PHOTO * 0.7 + 20).astype(np.uint8)

    def blurred(values: Array) -> Array:
        return gaussian_filter(values, 1.5, mode="reflect", truncate=3.5)

    a, b = (values @ np.array([0.299, 0.587, 0.114]) for values in (PHOTO, other))
    means = blurred(a), blurred(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = blurred(a * b) - means[0] * means[1]
    variances = blurred(a * a) - means[0] ** 2 + blurred(b * b) - means[1] ** 2
    expected = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    expected = (expected * (2 * covariance + c2) / (variances + c2)).mean()
    assert structural_similarity(PHOTO, other) == pytest.approx(expected, rel=1e-10)


# The figure that everyone knows


def test_deeper_layers_know_less_of_the_pixels(data: Path, network: Model) -> None:
    """VGG19's first three blocks: the picture fades, while the features stay near."""
    from vgg_blocks import vgg19_blocks

    with np.load(data / "weights/vgg19_block1_to_block3.npz") as file:
        model = vgg19_blocks(dict(file))
    photo = Image.load(data / "images/free/chelsea.png")
    result = run(model, photo, layers=(), size="48", iterations=30)
    found = result.data["layers"]
    assert list(found) == ["block1_conv1", "block2_conv1", "block3_conv1"]
    ratios = [each["psnr"] for each in found.values()]
    assert ratios[0] > ratios[1] > ratios[2] > 20 and ratios[0] > 35
    assert all(each["feature_error"] < 0.03 for each in found.values())
    similarities = [each["ssim"] for each in found.values()]
    assert similarities[0] > similarities[1] > similarities[2] > 0.7


@pytest.mark.slow
def test_the_figure_with_random_deeper_layers(data: Path, recipes: Any) -> None:
    """All five blocks, of which the last two are random: PSNR falls, and the features stay near."""
    model = recipes("stock").vgg19_notop_in_part(data)
    found = run(model, data / "images/free/chelsea.png", layers=(), size="64", iterations=60).data["layers"]
    assert list(found) == [f"block{block}_conv1" for block in range(1, 6)]
    ratios = [each["psnr"] for each in found.values()]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > 38 and ratios[-1] < 20
    assert all(each["feature_error"] < 0.05 for each in found.values())


def test_a_network_without_these_layers_is_looked_at_by_rule(network: Model) -> None:
    context = Stopping()
    tasks = easels(Image.load(PHOTO), network, ReconstructOptions(size="long:24"), context)
    assert list(tasks) == ["one", "two"]


# What comes back


def test_what_comes_back(network: Model) -> None:
    result = run(network, snapshots=3)
    assert set(result.pictures) >= {"", "one", "two"}
    steps = [name for name in result.pictures if ".step" in name]
    assert any(name.startswith("one.step") for name in steps) and len(steps) >= 2
    assert result.pictures["one"].size == (18, 24)
    rows = list(csv.DictReader(io.StringIO(result.files["losses.csv"].decode())))
    assert {row["picture"] for row in rows} == {"one", "two"}
    assert {"content one raw", "content two weighted", "variation raw", "norm raw"} <= rows[0].keys()
    for layer in ("one", "two"):
        of_layer = [row for row in rows if row["picture"] == layer]
        data = result.data["layers"][layer]
        assert int(of_layer[-1]["iteration"]) == data["iterations"]
        assert float(of_layer[-1]["total"]) == pytest.approx(data["loss"])
        error = float(of_layer[-1][f"content {layer} weighted"])
        assert error == pytest.approx(data["feature_error"], rel=1e-3)
        original = Image.load(PHOTO).resized(18, 24).pixels
        assert data["psnr"] == pytest.approx(psnr(result.pictures[layer].pixels, original))
        assert f"{layer}: features off by" in result.text
    assert json.loads(json.dumps(result.data["recipe"]))["source"].startswith("Mahendran")


def test_one_layer_alone_is_the_main_picture(network: Model) -> None:
    result = run(network, layers=["two"])
    assert list(result.pictures) == [""] and result.picture.size == (18, 24)


@pytest.mark.parametrize("preset", ["mahendran-vedaldi", "plain"])
@pytest.mark.parametrize("start", ["noise", "grey"])
def test_every_preset_comes_nearer(network: Model, preset: str, start: str) -> None:
    result = run(network, preset=preset, start=start, iterations=12)
    rows = list(csv.DictReader(io.StringIO(result.files["losses.csv"].decode())))
    for layer in ("one", "two"):
        totals = [float(row["total"]) for row in rows if row["picture"] == layer]
        assert totals[-1] < 0.3 * totals[0]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs-wolfe"])
def test_other_optimizers(network: Model, optimizer: str) -> None:
    assert run(network, optimizer=optimizer, iterations=30).data["layers"]["one"]["feature_error"] < 0.5


def test_the_loss_is_that_of_the_picture(network: Model) -> None:
    """Adam leaps away from its start, which stays the best."""
    result = run(network, layers=["one"], optimizer="adam", rate=1000, iterations=3)
    totals = [float(row["total"]) for row in csv.DictReader(io.StringIO(result.files["losses.csv"].decode()))]
    assert totals[0] < totals[-1] and result.data["layers"]["one"]["loss"] == pytest.approx(totals[0])


def test_the_layout_makes_no_difference(network: Model) -> None:
    last = run(small_network("nhwc"), layers=["two"], iterations=6)
    first = run(network, layers=["two"], iterations=6)
    assert last.data["layers"]["two"]["loss"] == pytest.approx(first.data["layers"]["two"]["loss"], rel=1e-3)


def test_a_network_of_one_size_is_given_that() -> None:
    random = np.random.default_rng(0)
    b = Builder("fixed")
    x = b.input("picture", ["batch", 3, 20, 20])
    kernel = b.constant(random.standard_normal((4, 3, 3, 3), np.float32), "kernel")
    places = b.constant(random.standard_normal((1, 4, 20, 20), np.float32), "places")
    x = b.op.Add(b.op.Conv(x, kernel, pads=[1, 1, 1, 1], name="conv"), places, name="placed")
    b.output(b.op.Relu(x, name="last"))
    made = b.model({"cnnkit.layers": '[["conv", "conv"], ["last", "last"]]'})
    model = Model.of(made, preprocessing=Preprocessing.preset("caffe"), name="fixed")
    assert run(model, layers=["last"], size=None).picture.size == (20, 20)
    with pytest.raises(UsageError, match=r"takes only 20x20 \(height x width\): say --size 20x20\.$"):
        run(model, layers=["last"], size="24")


# Pictures that people have


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_kinds_of_pictures(network: Model, mode: str) -> None:
    result = run(network, pillow.fromarray(PHOTO).convert(mode))
    assert result.pictures["two"].alpha is None
    assert result.data["layers"]["one"]["psnr"] > 5


def test_a_tiny_picture_is_enlarged_and_too_small_a_size_refused(network: Model) -> None:
    assert run(network, PHOTO[:1, :2]).pictures["one"].size == (12, 24)
    with pytest.raises(UsageError, match=r"2x2 pixels are too few for the layer 'one'"):
        run(small_network(pads=[0, 0, 0, 0]), size="2x2")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ["tow"]}, "Did you mean 'two'"),
        ({"layers": ["scores"]}, "lies over no picture"),
        ({"preset": "plan"}, "Did you mean 'plain'"),
        ({"rate": 2}, "--rate means nothing to lbfgs-scipy"),
        ({"optimizer": "sgd"}, "has no learning rate for sgd"),
        ({"size": "big"}, "is none; say long:512"),
    ],
)
def test_what_cannot_be_is_one_sentence(network: Model, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        run(network, **options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_dry_run_makes_nothing(network: Model) -> None:
    result = run(network, dry_run=True)
    assert not result.pictures and not result.files
    assert "2 pictures of 24x18, about" in result.text and "GMAC" in result.text
    assert result.data["two"]["macs"] > result.data["one"]["macs"] > 0


# A series


@pytest.mark.parametrize("optimizer", ["lbfgs-torch", "adam"])
@pytest.mark.parametrize("after", [2, 5, 8])
def test_an_interrupted_series_goes_on_to_the_same_end(network: Model, optimizer: str, after: int) -> None:
    """In the first layer, at its end, and in the second; the first is not done again."""
    options = ReconstructOptions(
        layers=("one", "two"),
        size="long:24",
        iterations=5,
        optimizer=optimizer,  # type: ignore[arg-type]
    )
    photo, uncut, first = Image.load(PHOTO), Stopping(), Stopping(after)
    whole = reconstruct(photo, network, options, uncut)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(photo, network, options, first)
    kept = first.shown[-1].data["layers"]
    assert list(kept.values())[-1]["stopped"] == "it was interrupted"
    second = Stopping(None, first.kept)
    rest = reconstruct(photo, network, options, second)
    assert second.moves == uncut.moves - after
    assert rest.pictures.keys() == whole.pictures.keys()
    for name, expected in whole.pictures.items():
        np.testing.assert_array_equal(rest.pictures[name].pixels, expected.pixels)
    assert rest.data == whole.data and rest.text == whole.text
    tables = [result.files["losses.csv"].decode().splitlines() for result in (rest, whole)]
    assert len({tuple(line.rsplit(",", 1)[0] for line in table) for table in tables}) == 1


def test_what_is_done_is_shown_at_once(network: Model) -> None:
    context = Stopping()
    reconstruct(Image.load(PHOTO), network, ReconstructOptions(size="long:24", iterations=2), context)
    assert [list(shown.data["layers"]) for shown in context.shown] == [["one"], ["one", "two"]]
    assert [set(shown.pictures) for shown in context.shown] == [{"", "one"}, {"", "one", "two"}]


def test_every_layer_has_its_share_of_the_seconds(network: Model) -> None:
    result = run(network, iterations=100_000, seconds=0.6, optimizer="adam")  # which never converges
    found = result.data["layers"]
    assert {each["stopped"] for each in found.values()} == {"the time is used up"}
    rows = list(csv.DictReader(io.StringIO(result.files["losses.csv"].decode())))
    ends = {row["picture"]: float(row["seconds"]) for row in rows}
    assert min(ends.values()) > 0.05 and 0.4 < sum(ends.values()) < 10
