"""Gradients for spatial transformers (Jaderberg et al. 2015, arXiv:1506.02025), which move pictures.

AffineGrid says for each pixel of a new picture where it comes from, in coordinates of -1 to 1 over the old
one; GridSample fetches it from there, as a mixture of the four pixels around.
"""

from itertools import product
from typing import Any

import numpy as np

from cnnkit import hookimpl


def affine_grid(op: Any, node: Any, dy: Any, theta: Any, size: Any) -> tuple[Any, ...]:
    """Each place is `theta` times (x, y, 1): its gradient is the sum of the products with those."""
    sides = node.constant(1)[:1:-1]  # width, height (, depth)
    if len(sides) != 2:
        raise node.refusal("is there for pictures only, not for volumes")
    spans = [1.0 if node.attribute("align_corners", 0) else 1 - 1 / side for side in sides]
    x, y = (np.linspace(-span, span, side) for span, side in zip(spans, sides, strict=True))
    places = np.stack([*np.meshgrid(x, y), np.ones(sides[::-1])], axis=2).reshape(1, -1, 3)
    moved = op.Transpose(op.Reshape(dy, [0, -1, 2]), perm=[0, 2, 1])
    return op.MatMul(moved, places.astype(theta.dtype)), None


def grid_sample(op: Any, node: Any, dy: Any, x: Any, grid: Any) -> tuple[Any, ...]:
    """Each of the four pixels around a place gets its share of dy; the place moves towards larger ones."""
    if node.attribute("mode", "linear") not in ("linear", "bilinear") or x.rank != 4:
        raise node.refusal("is there for pictures in mode linear only")
    if node.attribute("padding_mode", "zeros") != "zeros":
        raise node.refusal("is there for padding_mode zeros only")
    sides = np.array(x.shape[2:])
    scales = (sides - 1) / 2 if node.attribute("align_corners", 0) else sides / 2
    row, column = (
        op.Add(op.Mul(op.Gather(grid, 1 - axis, axis=3), float(scales[axis])), float(sides[axis] - 1) / 2)
        for axis in (0, 1)
    )
    pixels = op.Reshape(x, [0, 0, -1])
    dy = op.Reshape(dy, [0, 0, -1])

    dx, drow, dcolumn = op.zeros_like(pixels), 0.0, 0.0
    for down, right in product((0, 1), repeat=2):
        (near_row, share_down, slope_down) = _neighbour(op, row, down)
        (near_column, share_right, slope_right) = _neighbour(op, column, right)
        inside = op.And(_within(op, near_row, sides[0]), _within(op, near_column, sides[1]))
        place = op.Add(
            op.Mul(_clipped(op, near_row, sides[0]), float(sides[1])), _clipped(op, near_column, sides[1])
        )
        index = op.Expand(_flat(op, op.cast(place, np.int64)), op.shape(dy))

        shared = op.Mul(dy, _flat(op, op.Where(inside, op.Mul(share_down, share_right), 0.0)))
        dx = op.ScatterElements(dx, index, shared, axis=2, reduction="add")

        fetched = op.GatherElements(pixels, index, axis=2)
        wanted = op.Reshape(op.ReduceSum(op.Mul(dy, fetched), [1]), op.shape(row))
        wanted = op.Where(inside, wanted, 0.0)
        drow = op.Add(drow, op.Mul(wanted, op.Mul(share_right, slope_down)))
        dcolumn = op.Add(dcolumn, op.Mul(wanted, op.Mul(share_down, slope_right)))

    slopes = [op.Mul(drow, float(scales[0])), op.Mul(dcolumn, float(scales[1]))]
    dgrid = op.Concat(*(op.Unsqueeze(slope, [3]) for slope in reversed(slopes)), axis=3)
    return op.Reshape(dx, op.shape(x)), dgrid


def _neighbour(op: Any, place: Any, side: int) -> tuple[Any, Any, float]:
    """The pixel before (0) or behind (1) each place along an axis, its share, and how that changes."""
    before = op.Floor(place)
    rest = op.Sub(place, before)
    return (op.Add(before, 1.0), rest, 1.0) if side else (before, op.Sub(1.0, rest), -1.0)


def _within(op: Any, place: Any, size: int) -> Any:
    return op.And(op.GreaterOrEqual(place, 0.0), op.Less(place, float(size)))


def _clipped(op: Any, place: Any, size: int) -> Any:
    return op.Clip(place, 0.0, float(size - 1))


def _flat(op: Any, values: Any) -> Any:
    """(pictures, height, width) as (pictures, 1, pixels)."""
    return op.Unsqueeze(op.Reshape(values, [0, -1]), [1])


@hookimpl
def cnnkit_gradient_rules() -> dict[str, Any]:
    return {"AffineGrid": affine_grid, "GridSample": grid_sample}
