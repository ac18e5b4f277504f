"""For authors of plugins: a contract test for operations, a check for gradient rules, and fixtures.

pytest finds the fixtures `host` and `tiny_model` by itself once cnnkit is installed.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cnnkit import Host, Image, Model, Operation


@pytest.fixture
def host() -> "Host":
    """A host without any plugin; give it entries of your own for more."""
    from cnnkit import Host

    return Host(entries=[])


@pytest.fixture
def tiny_model() -> "Model":
    """A classifier of three colours (red, green, blue): conv, relu, pool, flatten, dense, probabilities."""
    return make_tiny_model()


def make_tiny_model() -> "Model":
    """The network of the fixture `tiny_model`, whose kernels are identities; its input is 16 by 16 pixels."""
    import numpy as np

    from cnnkit import Builder, Model, Preprocessing

    builder = Builder("tiny")
    op = builder.op
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[range(3), range(3), 1, 1] = 1
    x = builder.input("input", ["N", 3, 16, 16])
    x = op.Relu(op.Conv(x, identity, pads=[1, 1, 1, 1], name="conv"), name="relu")
    x = op.Flatten(op.GlobalAveragePool(x, name="pool"), name="flatten")
    x = op.Gemm(x, 4 * np.eye(3, dtype=np.float32), name="dense")
    builder.output(op.Softmax(x, axis=1, name="probabilities"), ["N", 3])
    preprocessing = Preprocessing.preset("tf", height=16, width=16)
    return Model.of(
        builder.model(), preprocessing=preprocessing, labels=("red", "green", "blue"), name="tiny"
    )


def check_operation(operation: "Operation", **options: Any) -> None:
    """Assert what every operation owes its users.

    Its definition is complete; it accepts the kinds of pictures that people have (one pixel, grey,
    transparent, 16-bit, turned by EXIF, long and thin); the same seed gives the same result; its data is
    JSON; its options survive a manifest; it leaves the picture and the working folder as they were. `options`
    are used in every run; the network is `tiny_model`'s.
    """
    from cnnkit import run
    from cnnkit.host.check import complaints_about
    from cnnkit.host.operation import Job
    from cnnkit.host.options import build_options, complete
    from cnnkit.host.result import to_json_line
    from cnnkit.images.image import Image

    assert not complaints_about(operation), complaints_about(operation)
    first = build_options(operation.options, options, Image.load)
    job = Job.from_json(Job(operation.name, options=complete(first, options)).to_json())
    second = build_options(operation.options, job.options, Image.load)
    assert first == second, f"the options change on their way through a manifest: {first} became {second}"

    before = set(Path().iterdir())
    model = make_tiny_model()
    for kind, picture in _pictures() if operation.takes.startswith("picture") else [("nothing", None)]:
        pixels = picture.pixels.copy() if picture else None
        results = [run(operation, picture, model=model, seed=1, **options) for _ in range(2)]
        told = [to_json_line(result.data) for result in results]
        assert told[0] == told[1], f"{kind}: two runs with the same seed differ"
        for result, other in [results]:
            assert result.contents(".png", {}).keys() == other.contents(".png", {}).keys(), kind
            for name in result.arrays:
                assert (result.arrays[name] == other.arrays[name]).all(), f"{kind}: array {name} differs"
        if picture is not None:
            assert (picture.pixels == pixels).all(), f"{kind}: the operation changed the picture it was given"
    assert set(Path().iterdir()) == before, "the operation left files in the working folder"


def check_gradient_rule(
    operator: str,
    rule: "Callable[..., Any]",
    *arrays: Any,
    opset: int = 18,
    computes: "Callable[..., Any] | None" = None,
    **attributes: Any,
) -> None:
    """Assert that a gradient rule predicts how the operator's output changes, in float64.

    `arrays` are the operator's inputs, None for one that is left out. Floating-point arrays are moved along
    random directions; arrays of integers and truth values are constants. Choose numbers that are not at a
    kink of the operator. `computes(*arrays, **attributes)` says in numpy what an operator does that onnx's
    reference implementation does not know.

        check_gradient_rule("Elu", elu, np.array([-2.0, 0.5, 3.0]), alpha=0.7)
    """
    import numpy as np
    from onnx import helper, numpy_helper

    from cnnkit.graphs.autodiff.check import slopes
    from cnnkit.graphs.builder import IR_VERSION, Builder

    domain, _, kind = operator.rpartition(".")
    given = {
        f"x{index}": a.astype(np.float64) if (a := np.asarray(array)).dtype.kind == "f" else a
        for index, array in enumerate(arrays)
        if array is not None
    }
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    feeds = {name: array for name, array in given.items() if array.dtype.kind == "f"}
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], name="checked", domain=domain, **attributes)],
        "check",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [],
        [numpy_helper.from_array(array, name) for name, array in given.items() if name not in feeds],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    builder = Builder.extending(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))
    known = {operator: computes} if computes else None
    for slope in slopes(builder, "y", feeds, list(feeds), {operator: rule}, computes=known):
        where = f"with respect to input {slope.tensor[1:]} of {operator}"
        assert slope.seen, (
            f"{where}: {slope.kinks} of {slope.outputs} outputs are at a kink; move the numbers"
        )
        assert slope.good, (
            f"{where}: the output changes by {slope.measured:.9g}, the gradient says {slope.predicted:.9g}; "
            f"that is wrong by {slope.error:.1e}"
        )


def _pictures() -> Iterator[tuple[str, "Image"]]:
    import numpy as np
    from PIL import Image as Pillow

    from cnnkit import Image

    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (24, 32, 3), np.uint8)
    turned, exif = io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(photo).save(turned, "JPEG", exif=exif)
    yield "a photograph", Image.load(photo)
    yield "one pixel", Image.load(photo[:1, :1].copy())
    yield "grey", Image.load(photo[..., 0].copy())
    yield "transparent", Image.load(random.integers(0, 256, (24, 32, 4), np.uint8))
    yield "16-bit", Image.load(Pillow.fromarray(photo[..., 0].astype(np.uint16) * 256))
    yield "turned by EXIF", Image.load(turned.getvalue())
    yield "long and thin", Image.load(photo[:2, :].repeat(3, axis=1))
