"""The data of a result as tables for people: rows where there are records, else names and values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnkit.host.pages import Html, element, folded, table, together

MOST_VALUES = 8
"""Of a list that is written out; of a longer one their number is told."""
AT_ONCE = 16
"""Rows that are seen without a click."""
MOST_ROWS = 1000
"""Of one table on a page."""

Records = Sequence[Mapping[str, Any]]


def tables(data: Mapping[str, Any]) -> tuple[Html, int]:
    """All of it, records first, and how many rows that takes."""
    records, single = list[Html](), list[tuple[str, Any]]()
    rows = 0
    for name, value in _leaves(data):
        if _are_records(value):
            records.append(_records(name, value))
            rows += len(value)
        elif isinstance(value, Mapping) and value:
            records.append(together(element("h3", _title(name)), table(("name", "value"), value.items())))
            rows += len(value)
        else:
            single.append((_title(name), _brief(value)))
    if single:
        records.append(table(("figure", "value"), single, "words"))
    return together(*records), rows + len(single)


def unfolded(data: Mapping[str, Any], opened: bool) -> Html:
    """The tables of the data, folded away where they are long, unless they are to be `opened`."""
    shown, rows = tables(data)
    if not rows:
        return Html()
    return shown if opened and rows <= 10 * AT_ONCE else folded("Figures", shown, opened=rows <= AT_ONCE)


def _records(name: str, rows: Records) -> Html:
    flat = [dict(_leaves(row)) for row in rows[:MOST_ROWS]]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    lines = [[_brief(row.get(column)) for column in columns] for row in flat]
    left_out = element("p", f"and {len(rows) - MOST_ROWS} more", class_="muted")
    more = [left_out] if len(rows) > MOST_ROWS else []
    return together(element("h3", _title(name)), table([_title(column) for column in columns], lines), *more)


def _leaves(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its path, such as ("highest.drop", 1.5).

    Records by name are a list of records, and several values that belong together stay so.
    """
    for key, value in data.items():
        name = f"{before}{key}"
        inner = list(value.values()) if isinstance(value, Mapping) else []
        if len(inner) > 1 and _are_records(inner):
            yield name, [{"name": str(each), **record} for each, record in value.items()]
        elif inner and (len(inner) <= 3 or any(isinstance(each, Mapping | list | tuple) for each in inner)):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _are_records(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, Mapping) and each for each in value)
    )


def _brief(value: Any) -> Any:
    """A value for a cell: of a long list, or of records in it, only how many there are."""
    if not isinstance(value, list | tuple):
        return value
    nested = any(isinstance(each, list | tuple | Mapping) for each in value)
    return f"{len(value)} values" if nested or len(value) > MOST_VALUES else value


def _title(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")
