"""Equivalent graphs that are faster: Winograd's minimal filtering in place of 3x3 convolutions.

4x4 outputs of a 3x3 convolution depend on 6x6 inputs, a tile. Direct convolution spends 9 products on each of
the outputs; F(4x4, 3x3) spends 36 on all 16 (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016, section 4.3). From a tile d and a kernel g they are

    A^T [ (G g G^T) * (B^T d B) ] A,    * being the product number by number.

With C channels to sum over, M filters and T tiles, each of the 36 positions in a tile is one product of
matrices, M x C by C x T. The transforms are linear, hence products of matrices too: for a tile read row by
row B^T d B is kron(B^T, B^T) d. They cost in proportion to C + M, the products to C x M: so many channels
gain, and few lose.

Every step is a standard operator of ONNX; `winograd` writes them down. For a picture of ceil(H/4) x ceil(W/4)
tiles, T = N x ceil(H/4) x ceil(W/4):

    x  [N, C, H, W]  -Conv, 36 kernels of 6x6, stride 4->  tiles    [36, C, T]
    w  [M, C, 3, 3]  -Gemm, 36 x 9->                       kernels  [36, M, C]
                     -MatMul, 36 of them->                 products [36, M, T]
                     -MatMul, 16 x 36->                    outputs  [4, 4, M, T]
                     -two transpositions->                 y        [N, M, H, W]
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnnkit.errors import ModelError
from cnnkit.graphs.builder import Builder, Operators
from cnnkit.graphs.opset import modernised, opset_of
from cnnkit.graphs.tensors import Tensor

TILE = 4
"""Outputs along each side of a tile."""
INPUT_TRANSFORM = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
KERNEL_TRANSFORM = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
OUTPUT_TRANSFORM = np.array(  # A^T
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
POSITIONS = INPUT_TRANSFORM.size
"""Of a tile before and after its transform: 36."""


@dataclass(frozen=True)
class Candidate:
    """A convolution that can be rewritten.

    `name` is that of its node, or its tensor's where nodes share one. `batch` is None where it is open.
    `pads` are those before and after the height and the width. `frozen` says that the weights follow from
    constants, so that the runtime transforms them once and for all.
    """

    name: str
    batch: int | None
    channels: int
    filters: int
    height: int
    width: int
    pads: tuple[tuple[int, int], tuple[int, int]]
    frozen: bool

    @property
    def out_sizes(self) -> tuple[int, int]:
        """Height and width of the output."""
        (top, bottom), (left, right) = self.pads
        return self.height + top + bottom - 2, self.width + left + right - 2

    @property
    def tiles(self) -> tuple[int, int]:
        """How many tiles cover the output, along its height and its width; the last ones may stick out."""
        height, width = self.out_sizes
        return -(-height // TILE), -(-width // TILE)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution as it is; of one picture where the batch is open."""
        height, width = self.out_sizes
        return 9 * self.channels * self.filters * height * width * (self.batch or 1)

    @property
    def weight_bytes(self) -> int:
        """Of the transformed float32 weights, which a session keeps."""
        return 4 * POSITIONS * self.channels * self.filters

    @property
    def tile_bytes(self) -> int:
        """Of the float32 tiles before and after the product; of one picture where the batch is open.

        They live no longer than the convolution: of many, one after another, only the largest counts.
        """
        down, across = self.tiles
        return 4 * POSITIONS * (self.channels + self.filters) * down * across * (self.batch or 1)

    @property
    def extra_bytes(self) -> int:
        """What the rewritten convolution needs beyond itself as it is."""
        return self.weight_bytes + self.tile_bytes


def candidates(graph: onnx.ModelProto | Builder) -> list[Candidate]:
    """The convolutions that `winograd` can rewrite, in the order of the graph.

    They are 3x3 with stride 1, without dilation or groups, of float32 or float64. Their channels, heights and
    widths are known; the batch may be open.
    """
    builder = graph if isinstance(graph, Builder) else Builder.extending(graph)
    names = _names(builder.nodes)
    constants = set(builder.weights)
    found = []
    for node in builder.nodes:
        if constants.issuperset(name for name in node.input if name):
            constants.update(node.output)
        if node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
            candidate = _candidate(builder, node, names[node.output[0]], node.input[1] in constants)
            found += [candidate] if candidate else []
    return found


def winograd(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model with these of its `candidates` written as F(4x4, 3x3), and all else as it was.

    Its numbers agree to about 1e-5 of the largest; a gradient also differs where a ReLU's input is that close
    to 0. Tensors and nodes keep their names; new ones begin with `winograd/` and the name of the convolution.
    Weights are not read, so they may be in files.
    """
    model = modernised(model)
    known = Builder.extending(model)
    chosen = {candidate.name: candidate for candidate in candidates(known) if candidate.name in names}
    assert chosen.keys() == set(names), f"not to be rewritten: {sorted(set(names) - chosen.keys())}"
    called = _names(model.graph.node)
    written = Builder(opset=opset_of(model))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        candidate = chosen.get(called[node.output[0]])
        if not candidate:
            nodes.append(node)
            continue
        start = len(written.nodes)
        x, weights, *bias = (_declared(written, known.tensor(name)) for name in node.input if name)
        with written.scope(f"winograd/{candidate.name}"):
            y = _convolved(written.op, candidate, x, weights, *bias)
        written.output(written.op.Identity(y, name=candidate.name, output=node.output[0]))
        nodes += written.nodes[start:]
    copied = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(copied.node)
    model.graph.initializer.extend(written.model().graph.initializer if chosen else [])
    return model


def _convolved(
    op: Operators, conv: Candidate, x: Tensor, weights: Tensor, bias: Tensor | None = None
) -> Tensor:
    """conv(x, weights) + bias. Sizes in front of the tiles are the transform's position, then C or M."""
    (top, _), (left, _) = conv.pads
    (down, across), (height, width) = conv.tiles, conv.out_sizes
    square = [len(INPUT_TRANSFORM)] * 2
    bottom = TILE * down + 2 - top - conv.height
    right = TILE * across + 2 - left - conv.width

    kernels = op.Gemm(_both_ways(KERNEL_TRANSFORM, x), op.Reshape(weights, [-1, 9]), transB=1)
    kernels = op.Reshape(kernels, [POSITIONS, conv.filters, conv.channels])

    channels = op.Reshape(_exchanged(op, x, conv), [-1, 1, conv.height, conv.width])
    cutter = _both_ways(INPUT_TRANSFORM, x).reshape(POSITIONS, 1, *square)
    tiles = op.Conv(
        channels, cutter, kernel_shape=square, strides=[TILE, TILE], pads=[top, left, bottom, right]
    )
    tiles = op.Transpose(op.Reshape(tiles, [-1, POSITIONS, down * across]), perm=[1, 0, 2])
    tiles = op.Reshape(tiles, [POSITIONS, conv.channels, -1])

    products = op.Reshape(op.MatMul(kernels, tiles), [POSITIONS, -1])

    y = op.MatMul(_both_ways(OUTPUT_TRANSFORM, x), products)
    # Columns, then rows of the tiles go to their places. Two steps that each move one axis were seen to take
    # half the time of a DepthToSpace, and far less than a transposition of five axes.
    y = op.Transpose(op.Reshape(y, [TILE, TILE, -1]), perm=[0, 2, 1])
    y = op.Transpose(op.Reshape(y, [TILE, -1, across * TILE]), perm=[1, 0, 2])
    sizes = [TILE * down, TILE * across]
    y = op.Reshape(y, [1, conv.filters, *sizes] if conv.batch == 1 else [conv.filters, -1, *sizes])
    if sizes != [height, width]:
        y = op.Slice(y, [0, 0], [height, width], [2, 3])
    y = _exchanged(op, y, conv)
    return y if bias is None else op.Add(y, op.Reshape(bias, [-1, 1, 1]))


def _both_ways(transform: NDArray[Any], like: Tensor) -> NDArray[Any]:
    """The matrix that transforms columns and rows of a square, read row by row."""
    return np.kron(transform, transform).astype(like.dtype)


def _exchanged(op: Operators, x: Tensor, conv: Candidate) -> Tensor:
    """Batch and channels in each other's place; of one picture that is the same order of numbers."""
    return x if conv.batch == 1 else op.Transpose(x, perm=[1, 0, 2, 3])


def _declared(builder: Builder, tensor: Tensor) -> Tensor:
    """The tensor of another builder as an input of this one, unless it is there already."""
    try:
        return builder.tensor(tensor)
    except ModelError:
        return builder.input(tensor, [size or "batch" for size in tensor.shape], tensor.dtype)


def _candidate(builder: Builder, node: onnx.NodeProto, name: str, frozen: bool) -> Candidate | None:
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    try:
        x, weights = builder.tensor(node.input[0]), builder.tensor(node.input[1])
        (batch, channels, height, width), (filters, *kernel) = x.shape, weights.shape
    except (ModelError, ValueError):  # of unknown rank, or not in the plane
        return None
    plain = [*values.get("strides", []), *values.get("dilations", []), values.get("group", 1)]
    if kernel != [channels, 3, 3] or set(plain) != {1} or x.dtype not in (np.float32, np.float64):
        return None
    if channels is None or filters is None or height is None or width is None:
        return None
    ways = {b"NOTSET": values.get("pads", [0] * 4), b"VALID": [0] * 4}
    top, left, bottom, right = ways.get(values.get("auto_pad", b"NOTSET"), [1] * 4)  # else the same size
    pads = (top, bottom), (left, right)
    return Candidate(name, batch, channels, filters, height, width, pads, frozen)


def _names(nodes: Sequence[onnx.NodeProto]) -> dict[str, str]:
    """Tensor -> the name of the node that computes it, or the tensor's own where nodes share a name."""
    counts = Counter(node.name for node in nodes)
    return {
        node.output[0]: node.name if node.name and counts[node.name] == 1 else node.output[0]
        for node in nodes
    }
