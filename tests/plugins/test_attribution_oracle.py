"""The gradient attributions against captum, on MobileNets rebuilt in torch from the nodes of the same file.

Both compute in float32, each in its own order. A ReLU6 whose input is as near to 0 or 6 as rounding reaches
may be open in one and shut in the other, which changes the gradient in all that it sees by per cents. So the
networks are made smooth for both: each ReLU6 becomes x · sigmoid(x), and every value has to agree.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import cnnkit
from cnnkit import Settings
from cnnkit.plugins.saliency import SaliencyOptions, noisy

torch = pytest.importorskip("torch", reason="captum runs on torch")
attr = pytest.importorskip("captum.attr", reason="the oracle is captum")
from onnx_in_torch import OnnxInTorch  # noqa: E402

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
    pytest.mark.filterwarnings("ignore:Setting .*hooks on ReLU activations"),
]


def smooth(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The network with x · sigmoid(x) for each Clip, under the same names."""
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Clip":
            (value, *_), name = node.input, node.output[0]
            nodes.append(onnx.helper.make_node("Sigmoid", [value], [f"{name}/sigmoid"]))
            nodes.append(onnx.helper.make_node("Mul", [value, f"{name}/sigmoid"], [name], name=name))
        else:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


class Case:
    """A network for both, the input, and the two best classes."""

    smooth = True

    def __init__(self, data: Path, network: str) -> None:
        proto = onnx.load(data / "weights" / network)
        loaded = cnnkit.Model.of(smooth(proto) if self.smooth else proto)
        self.model = replace(loaded, preprocessing=replace(loaded.preprocessing, fit="pad"))
        self.picture = cnnkit.Image.load(data / "images" / "free" / "astronaut.png")
        self.x = torch.from_numpy(self.model.preprocessing.apply(self.picture).tensor)
        self.proto = self.model.graph.proto
        self.logits = OnnxInTorch(self.proto, self.model.logits.tensor)

    def run(self, operation: str, **options: Any) -> cnnkit.Result:
        return cnnkit.run(operation, self.picture, model=self.model, target="top:2", **options)


@pytest.fixture(scope="module")
def case(data: Path) -> Case:
    return Case(data, "mobilenet_v2_1.0_224.onnx")


class Original(Case):
    smooth = False


@pytest.fixture(scope="module")
def original(data: Path) -> Case:
    """With its ReLU6; few of them lie behind the layers that it is asked about."""
    return Original(data, "mobilenet_v2_1.0_224.onnx")


@pytest.fixture(scope="module")
def small(data: Path) -> Case:
    """For what takes many gradients."""
    return Case(data, "mobilenet_v1_0.25_128.onnx")


def assert_close(found: NDArray[Any], expected: Any) -> None:
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("method", ["gradient", "input-x-gradient"])
def test_saliency(case: Case, method: str) -> None:
    result = case.run("saliency", method=method)
    for target, found in zip(result.arrays["classes"], result.arrays["attributions"], strict=True):
        if method == "gradient":
            expected = attr.Saliency(case.logits).attribute(case.x, target=int(target), abs=False)
        else:
            expected = attr.InputXGradient(case.logits).attribute(case.x, target=int(target))
        assert_close(found, expected[0])


def test_saliency_of_probabilities(case: Case) -> None:
    result = case.run("saliency", score="probabilities")
    shares = OnnxInTorch(case.proto, case.model.probabilities.tensor)
    target = int(result.arrays["classes"][0])
    assert_close(
        result.arrays["attributions"][0], attr.Saliency(shares).attribute(case.x, target=target, abs=False)[0]
    )


@pytest.mark.parametrize("method", ["smoothgrad", "vargrad"])
def test_noise(small: Case, method: str) -> None:
    """captum's NoiseTunnel on the copies that were really shown."""
    result = small.run("saliency", method=method, samples=4, deviation=0.3, seed=11)
    seed = int(np.random.default_rng(11).integers(2**63))
    copies = list(noisy(small.x[0].numpy(), SaliencyOptions(samples=4, deviation=0.3), seed))
    saliency = attr.Saliency(small.logits)
    for target, found in zip(result.arrays["classes"], result.arrays["attributions"], strict=True):
        each = torch.cat(
            [
                saliency.attribute(torch.from_numpy(copy)[None], target=int(target), abs=False)
                for copy in copies
            ]
        ).double()
        expected = each.mean(0) if method == "smoothgrad" else each.var(0, unbiased=False)
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("network", "baseline", "value", "steps", "batch"),
    [
        ("small", "zero", 0, 50, None),
        ("small", "black", -1, 20, 3),
        ("small", "white", 1, 20, 16),
        ("case", "zero", 0, 6, None),
    ],
)
def test_integrated_gradients(
    request: pytest.FixtureRequest, network: str, baseline: str, value: float, steps: int, batch: int | None
) -> None:
    case: Case = request.getfixturevalue(network)
    settings = Settings(batch=batch)
    result = case.run("integrated-gradients", baseline=baseline, steps=steps, settings=settings)
    target = result.data["targets"][0]
    expected, delta = attr.IntegratedGradients(case.logits).attribute(
        case.x,
        baselines=value,
        target=target["class"],
        n_steps=steps,
        internal_batch_size=10,
        return_convergence_delta=True,
    )
    assert_close(result.arrays["attributions"][0], expected[0])
    assert target["delta"] == pytest.approx(float(delta), abs=1e-3 * max(1, abs(target["rise"])))


@pytest.mark.parametrize(
    ("network", "layer"),
    [("case", None), ("case", "Add_90"), ("case", "Clip_60"), ("original", None), ("original", "Add_90")],
)
@pytest.mark.parametrize("relu", [False, True])
def test_grad_cam(request: pytest.FixtureRequest, network: str, layer: str | None, relu: bool) -> None:
    case: Case = request.getfixturevalue(network)
    result = case.run("grad-cam", layer=layer, sign="positive" if relu else "signed")
    name = result.data["layers"][0]["name"]
    body = OnnxInTorch(case.proto, name)
    known = onnx.shape_inference.infer_shapes(case.proto)
    rest = onnx.utils.Extractor(known).extract_model([name], [case.model.logits.tensor])
    whole = torch.nn.Sequential(body, OnnxInTorch(rest, case.model.logits.tensor))
    for number, target in enumerate(result.arrays["classes"]):
        expected = attr.LayerGradCam(whole, body).attribute(
            case.x, target=int(target), relu_attributions=relu
        )
        found = result.arrays["map"][number]
        assert_close(np.maximum(found, 0) if relu else found, expected[0, 0])
        enlarged = attr.LayerAttribution.interpolate(expected, (224, 224), "bilinear")
        assert_close(result.arrays["heatmap"][number], enlarged[0, 0])


def test_guided() -> None:
    """captum's GuidedBackprop, which wants modules, on a network of three."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 5),
    ).eval()
    b = cnnkit.Builder()
    x = b.input("x", ["N", 3, 20, 24])
    for part in network:
        if isinstance(part, torch.nn.Conv2d):
            weights = (part.weight.detach().numpy(), part.bias.detach().numpy())
            x = b.op.Relu(b.op.Conv(x, *weights, strides=list(part.stride)))
    dense = (network[-1].weight.detach().numpy(), network[-1].bias.detach().numpy())
    b.output(b.op.Gemm(b.op.Flatten(b.op.GlobalAveragePool(x)), *dense, transB=1, output="y"), ["N", 5])
    model = cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("tf"))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    result = cnnkit.run("saliency", pixels, model=model, method="guided", target="0,1,2,3,4")
    tensor = torch.from_numpy(model.preprocessing.apply(cnnkit.Image.load(pixels)).tensor)
    guided = attr.GuidedBackprop(network)
    for target, found in enumerate(result.arrays["attributions"]):
        assert_close(found, guided.attribute(tensor, target=target)[0])
