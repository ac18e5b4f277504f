"""The table of a sweep: a record per cell, as JSON, as CSV, and in short for people."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnkit.host.grid import NETWORK, SOURCE, Axis, Cell
from cnnkit.host.operation import portable, portable_option
from cnnkit.host.result import jsonable
from cnnkit.images.drawing import compact

WIDEST = 120
"""Characters of a line for people."""

Scalar = str | int | float | bool | None


def record(cell: Cell, axes: Sequence[Axis]) -> dict[str, Any]:
    """All that is known of a cell, JSON-able: its values by name, and its data, or why it has none."""
    told: dict[str, Any] = {"cell": cell.place.stem.name}
    told |= {axis.title: _value(axis.values[cell.numbers[axis.name]], axis) for axis in axes}
    if cell.manifest is None:
        return {**told, "error": str(cell.error) if cell.error else "not yet"}
    outputs = [str(cell.place.stem.with_name(name)) for name in cell.manifest["outputs"]]
    data = cell.manifest.get("data", {})
    return {**told, "seconds": cell.seconds, "data": data, "outputs": outputs}


def _value(value: Any, axis: Axis) -> Any:
    if axis.name == SOURCE:
        return portable(value)
    if isinstance(value, tuple) and axis.name in NETWORK:
        return "x".join(map(str, value))
    return jsonable(portable_option(value))


def flattened(data: Any, name: str = "") -> Iterator[tuple[str, Scalar]]:
    """Every scalar in nested data by its path, such as ("gram_error.block1_conv1", 0.03)."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            yield from flattened(value, f"{name}.{number}" if name else str(number))
    else:
        yield name, data


def to_csv(cells: Sequence[Cell], axes: Sequence[Axis]) -> bytes:
    """A line per cell: its values, the seconds, every number of its data, and the words that differ."""
    rows = []
    for cell in cells:
        told = record(cell, axes)
        data = dict(flattened(told.pop("data", {})))
        told.pop("outputs", None)
        told |= {axis.title: _named(cell, axis, told[axis.title]) for axis in axes}
        rows.append((told, data))
    beginnings = _columns([told for told, _ in rows])
    found = [data for _, data in rows]
    columns = [name for name in _columns(found) if _differs(name, found) or _is_number(name, found)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*beginnings, *(f"data.{name}" if name in beginnings else name for name in columns)])
    for told, data in rows:
        writer.writerow([told.get(name) for name in beginnings] + [data.get(name) for name in columns])
    return text.getvalue().encode()


def in_short(cells: Sequence[Cell], axes: Sequence[Axis]) -> str:
    """Aligned columns: what varies, the seconds, and of the data what differs, as far as a line is long.

    Of numbers that belong together the total is shown, or the mean; of several finds the first.
    """
    varying = [axis for axis in axes if len(axis.values) > 1] or list(axes[:1])
    data = [dict(_summarised((cell.manifest or {}).get("data", {}))) for cell in cells]
    known = {axis.title for axis in varying}
    names = [name for name in _columns(data) if len(cells) == 1 or _differs(name, data)]
    names = [name for name in names if name not in known]
    columns = [[axis.title, *(_of(axis, cell) for cell in cells)] for axis in varying]
    columns.append(["seconds", *(_state(cell) for cell in cells)])
    columns += [[name, *(_shown(found.get(name)) for found in data)] for name in names]
    lines = [""] * (len(cells) + 1)
    for column in columns:
        width = max(map(len, column))
        if len(lines[0]) + width > WIDEST:
            break
        lines = [f"{line}{entry:<{width}}  " for line, entry in zip(lines, column, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _summarised(data: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value and all(_is_plain(item) for item in value.values()):
            whole = "total" in value
            yield (
                f"{name}.total" if whole else f"mean {name}",
                value["total"] if whole else statistics.fmean(value.values()),
            )
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from (item for item in value[0].items() if not isinstance(item[1], Mapping | list))
        elif not isinstance(value, Mapping | list):
            yield name, value


def _named(cell: Cell, axis: Axis, value: Any) -> Scalar:
    """A value in a cell of a table: a number as it is, else its word."""
    return value if _is_plain(value) else _of(axis, cell)


def _of(axis: Axis, cell: Cell) -> str:
    return axis.words[cell.numbers[axis.name]]


def _state(cell: Cell) -> str:
    if cell.manifest is None:
        return "failed" if cell.error else "not yet"
    return "" if cell.seconds is None else f"{cell.seconds:.1f}"


def _shown(value: Scalar) -> str:
    return "" if value is None else compact(float(value)) if _is_plain(value) else str(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _differs(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row[name] for row in rows if name in row}) > 1


def _is_number(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(_is_plain(row[name]) for row in rows if name in row)
