"""Where a kernel looks: the geometry that a convolution and its gradients share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.rules.table import Node, Tensor

Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """How a kernel moves over a large plane to make a small one; a number for each axis.

    `begins` are the positions by which the first window stands out in front of the large plane.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    begins: Sizes
    large: Sizes
    small: Sizes
    groups: int

    @staticmethod
    def of_conv(node: Node, kernel: Tensor, large: Tensor) -> "Window":
        return Window._of(node, kernel, large.shape[2:], node.output.shape[2:], 0)

    @staticmethod
    def of_conv_transpose(node: Node, kernel: Tensor, small: Tensor) -> "Window":
        added = np.array(node.attribute("output_padding", [0] * (small.rank - 2)), np.int64)
        return Window._of(node, kernel, node.output.shape[2:], small.shape[2:], added)

    @staticmethod
    def _of(node: Node, kernel: Tensor, large: Sequence[Any], small: Sequence[Any], added: Any) -> "Window":
        """`added` are the positions of the large plane that no window covers and that are not padding."""
        if None in large or None in small:
            raise node.refusal(
                "needs planes of a known size, only the batch may stay open; give the sizes of the input"
            )
        rank = len(large)
        sizes, strides, dilations = (
            np.array(numbers, np.int64)
            for numbers in (
                kernel.shape[2:],
                node.attribute("strides", [1] * rank),
                node.attribute("dilations", [1] * rank),
            )
        )
        mode = node.attribute("auto_pad", "NOTSET")
        if mode == "VALID":
            begins = np.zeros(rank, np.int64)
        elif mode == "NOTSET" and not node.attribute("output_shape"):
            begins = np.array(node.attribute("pads", [0] * 2 * rank)[:rank], np.int64)
        else:
            covered = strides * (np.array(small) - 1) + dilations * (sizes - 1) + 1 + added
            padded = np.maximum(0, covered - np.array(large))
            begins = padded // 2 if mode == "SAME_UPPER" else padded - padded // 2
        return Window(
            sizes,
            strides,
            dilations,
            begins,
            large=np.array(large, np.int64),
            small=np.array(small, np.int64),
            groups=node.attribute("group", 1),
        )

    @property
    def reach(self) -> Sizes:
        """From the first to the last tap."""
        return self.dilations * (self.kernel - 1)

    @property
    def covered(self) -> Sizes:
        """From the first tap of the first window to behind the last tap of the last, padding included."""
        return self.strides * (self.small - 1) + self.reach + 1

    @property
    def positions(self) -> int:
        """How many numbers a small plane has."""
        return int(self.small.prod())

    @property
    def planes(self) -> range:
        """The axes of the planes, channels first."""
        return range(2, 2 + len(self.kernel))

    @property
    def taps(self) -> Iterator[Sizes]:
        """The positions in the kernel in their order, counted in positions of the large plane."""
        return (self.dilations * tap for tap in np.ndindex(*self.kernel))
