"""Sessions give the numbers of the reference evaluator, at any tap, in any batch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder, DeviceError, Graph, Image, Model, ModelError, Session, UsageError
from cnnkit.runtime.session import _BatchSize


def network(
    batch: int | str = "batch",
    sizes: tuple[int | str, int | str] = (8, 6),
    dtype: Any = np.float32,
    nhwc: bool = False,
) -> onnx.ModelProto:
    """conv -> relu -> mean over the picture -> 4 numbers, in float32 or float16, or from uint8 pixels."""
    random = np.random.default_rng(0)
    weights = np.float16 if dtype == np.float16 else np.float32
    b = Builder("small")
    x = b.input("input", (batch, *sizes, 3) if nhwc else (batch, 3, *sizes), dtype)
    if dtype == np.uint8:
        x = b.op.Cast(x, to=1, name="cast")
    if nhwc:
        x = b.op.Transpose(x, perm=[0, 3, 1, 2], name="transpose")
    kernel = random.standard_normal((4, 3, 3, 3)).astype(weights)
    x = b.op.Conv(x, kernel, random.standard_normal(4).astype(weights), pads=[1] * 4, name="conv")
    x = b.op.Relu(x, name="relu")
    x = b.op.Flatten(b.op.GlobalAveragePool(x, name="pool"), name="scores")
    b.output(x, (batch, 4), weights)
    return b.model()


def pictures(count: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, *(shape or (3, 8, 6))), np.float32)


def session(proto: onnx.ModelProto, **options: Any) -> Session:
    return Session(Model.of(proto), "cpu", **options)


def reference(proto: onnx.ModelProto, batch: NDArray[Any], name: str) -> NDArray[Any]:
    (value,) = ReferenceEvaluator(Graph.of(proto).extract([name]).proto).run(None, {"input": batch})
    return np.asarray(value)


@pytest.mark.parametrize("taps", [(), ("conv",), ("relu", "conv"), ("input", "scores"), ("input",)])
def test_taps(taps: tuple[str, ...]) -> None:
    batch = pictures(3)
    outputs = session(network()).run(batch, taps)
    assert tuple(outputs) == (taps or ("scores",))
    for name, value in outputs.items():
        expected = batch if name == "input" else reference(network(), batch, name)
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_an_unknown_tap() -> None:
    with pytest.raises(ModelError, match="no tensor 'nowhere'"):
        session(network()).run(pictures(1), ["nowhere"])


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_fixed_batch_is_filled_up_and_cut(count: int) -> None:
    batch = pictures(count)
    runner = session(network(batch=4))
    expected = reference(network(), batch, "scores")
    np.testing.assert_allclose(runner.run(batch)["scores"], expected, atol=1e-5)
    mapped = [outputs["scores"] for outputs in runner.map(batch)]
    np.testing.assert_allclose(mapped, expected, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_map_keeps_order_and_copies_what_it_draws(batch: int | None) -> None:
    everything = pictures(50)

    def reusing() -> Iterator[NDArray[np.float32]]:
        buffer = np.empty_like(everything[0])
        for picture in everything:
            buffer[:] = picture
            yield buffer

    outputs = list(session(network(), batch=batch).map(reusing(), ["scores", "input"]))
    np.testing.assert_array_equal([output["input"] for output in outputs], everything)
    expected = reference(network(), everything, "scores")
    np.testing.assert_allclose([output["scores"] for output in outputs], expected, atol=1e-5)


def test_pictures_of_several_sizes() -> None:
    proto = network(sizes=("height", "width"))
    items = [pictures(1, 3, 4 + number // 3, 5)[0] for number in range(9)]
    outputs = [output["scores"] for output in session(proto).map(items)]
    expected = [reference(proto, item[None], "scores")[0] for item in items]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_float16_networks_are_fed_and_answer_in_float32() -> None:
    outputs = session(network(dtype=np.float16)).run(pictures(2), ["relu", "scores"])
    assert all(value.dtype == np.float32 for value in outputs.values())
    np.testing.assert_allclose(outputs["scores"], reference(network(), pictures(2), "scores"), atol=5e-3)


def test_uint8_networks_are_fed_rounded_pixels() -> None:
    proto = network(dtype=np.uint8, nhwc=True)
    pixels = np.random.default_rng(0).uniform(-20, 280, (2, 8, 6, 3)).astype(np.float32)
    whole = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(
        session(proto).run(pixels)["scores"], reference(proto, whole, "scores"), rtol=1e-5
    )


def test_batches_grow_while_that_pays() -> None:
    size = _BatchSize(32, measured=True)
    cost = {4: 0.9, 8: 0.7, 16: 0.69, 32: 0.1}  # seconds for one picture
    while not size._settled:
        size.note(size.size, size.size * cost[size.size])
    assert size.size == 8


def test_the_measured_size_leaves_no_trace_in_the_results() -> None:
    items = pictures(39)
    once, *others = (
        np.stack([output["scores"] for output in session(network(), batch=batch).map(items)])
        for batch in (4, 8, 16, 32, None)
    )
    for other in others:
        np.testing.assert_array_equal(once, other)


def test_batches_stop_at_the_memory() -> None:
    # conv and relu live together: 2 x 4 x 8 x 6 float32 = 1536 bytes for a picture
    runner = session(network(), max_memory=5 * 1536)
    part = runner._part(())
    size = runner._batch_size(part, (3, 8, 6))
    for _ in range(20):
        size.note(size.size, 1.0)  # a picture is cheaper the more there are
    assert size.size == 4
    assert session(network(), max_memory=1)._batch_size(part, (3, 8, 6)).size >= 1


def test_what_onnx_runtime_refuses_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="takes pictures that are 8 pixels high, not 9"):
        session(network()).run(pictures(1, 3, 9, 9))
    with pytest.raises(ModelError, match="ONNX Runtime failed on 'model' with an input of shape") as caught:
        session(network()).run(pictures(1, 2, 8, 6))
    assert "\n" not in str(caught.value) and "onnxruntime_src" not in str(caught.value)
    with pytest.raises(UsageError, match="has 4 dimensions"):
        session(network()).run(pictures(1)[0])
    b = Builder()
    x = b.op.Flatten(b.input("input", ("N", 3, 4, 4)))
    b.output(b.op.MatMul(x, b.constant(np.ones((48, 2), np.float32), "dense")), ("N", 2))
    mismatched = b.model()
    mismatched.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((7, 2), np.float32), "dense"))
    with pytest.raises(ModelError, match="ONNX Runtime cannot run 'model'"):
        session(mismatched).run(pictures(1, 3, 4, 4))
    assert capfd.readouterr() == ("", "")


def test_what_does_not_fit_the_memory_is_not_tried() -> None:
    b = Builder()
    x = b.op.GlobalAveragePool(
        b.op.Relu(
            b.op.Conv(b.input("input", ("N", 3, 8, 8)), np.ones((2, 3, 1, 1), np.float32), pads=[1 << 17] * 4)
        )
    )
    b.output(b.op.Flatten(x, name="scores"), ("N", 2))
    with pytest.raises(ModelError, match=r"needs \d+ MiB for activations of 1 picture"):
        session(b.model()).run(pictures(1, 3, 8, 8))


def test_devices(capfd: pytest.CaptureFixture[str]) -> None:
    assert session(network()).device == "cpu"
    assert Session(Model.of(network()), "auto").device in ("cpu", "cuda")
    with pytest.raises(UsageError, match="there is no device 'tpu'; choose one of auto, cpu, cuda"):
        Session(Model.of(network()), "tpu")
    assert capfd.readouterr() == ("", "")


def test_cuda_by_name_is_had_or_refused_with_the_reason() -> None:
    from cnnkit.runtime.device import cuda_problem

    problem = cuda_problem()
    if not problem:
        assert Session(Model.of(network()), "cuda").device == "cuda"
        return
    with pytest.raises(DeviceError) as caught:
        Session(Model.of(network()), "cuda")
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128", "mobilenet_v2_1.0_224"])
def test_every_layer_of_the_mobilenets(data: Path, name: str) -> None:
    model = Model.load(data / "weights" / f"{name}.onnx")
    picture = Image.load(data / "images" / "free" / "chelsea.png")
    batch = model.preprocessing.apply(picture).tensor
    taps = [layer.tensor for layer in model.layers]
    outputs = Session(model, "cpu").run(batch, taps)
    whole = model.graph.extract(taps).proto
    expected = ReferenceEvaluator(whole).run(None, {"input": batch})
    for tap, value in zip(taps, expected, strict=True):
        error = np.abs(outputs[tap] - value).max() / np.abs(value).max()
        assert error < 1e-4, tap


MEMORY = """
import resource, sys
import numpy as np
from cnnkit import Model, Session
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = Model.load(sys.argv[1])
session = Session(model, "cpu")
before = peak()
session.run(np.zeros((1, 1, 1, 5000), np.float32))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_large_weights_are_in_memory_once(tmp_path: Path) -> None:
    b = Builder()
    x = b.op.Flatten(b.input("input", ("N", 1, 1, 5000)))
    weights = np.zeros((5000, 5000), np.float32)
    b.output(b.op.Gemm(x, weights, np.zeros(5000, np.float32), name="dense"), ("N", 5000))
    path = tmp_path / "large.onnx"
    path.write_bytes(b.model().SerializeToString())
    child = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    assert int(child.stdout) < 1.3 * weights.nbytes
