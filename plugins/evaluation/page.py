"""An evaluation as one HTML page that needs nothing else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cnnkit import Image, pages
from cnnkit.plugins.evaluation.sheets import Row, Section

WIDE = 800
"""Wider charts are not made smaller on small screens."""
CHARTS = {"": "What is taken for what", "calibration": "How sure, how right"}


def page(
    title: str, data: Mapping[str, Any], charts: Mapping[str, Image], sections: Iterable[Section]
) -> bytes:
    """The page of what `evaluate` found, from its data, its charts by name, and its pictures."""
    return pages.page(title, *_parts(data, charts, sections))


def _parts(
    data: Mapping[str, Any], charts: Mapping[str, Image], sections: Iterable[Section]
) -> Iterator[pages.Html]:
    yield from _figures(data)
    for section in filter(lambda section: section.rows, sections):
        yield pages.element("h2", section.title)
        yield pages.element("div", *map(_row, section.rows), class_="rows broad")
    yield from _wrong(data["wrong"])
    for name, words in CHARTS.items():
        yield pages.element("h2", words)
        kind = "wide" if charts[name].width > WIDE else None
        yield pages.element("div", pages.picture(charts[name], words), class_=kind)
    yield pages.element("h2", "Each class")
    yield pages.table(
        ("class", "precision", "recall", "F1", "pictures"),
        [
            (
                one["label"],
                *(f"{one[name]:.3f}" for name in ("precision", "recall", "f1")),
                one["pictures"],
            )
            for one in data["per_class"]
        ],
    )


def _figures(data: Mapping[str, Any]) -> Iterator[pages.Html]:
    shown = {
        "pictures": data["pictures"],
        "accuracy": f"{data['accuracy']:.1%}",
        **({"top-5": f"{data['top']['5']:.1%}"} if "5" in data["top"] else {}),
        "mean recall": f"{data['balanced_accuracy']:.3f}",
        "mean F1": f"{data['macro_f1']:.3f}",
        "cross-entropy": f"{data['cross_entropy']:.3f}",
        "calibration error": f"{data['calibration_error']:.3f}",
    }
    yield pages.figures(shown, "large")
    if data["explained_by"] != "none":
        yield pages.element(
            "p", f"Heat maps by {data['explained_by']}, each on its own scale", class_="muted"
        )
    if left_out := data["unreadable"]:
        yield pages.element("p", f"Left out, for they cannot be read: {len(left_out)}", class_="muted")


def _row(row: Row) -> pages.Html:
    tiles = (pages.element("div", pages.picture(tile, name), name) for name, tile in row.tiles)
    file = pages.element("span", row.file, class_="muted")
    caption = pages.element("figcaption", row.caption, pages.element("br"), file)
    return pages.element("figure", caption, pages.element("div", *tiles, class_="tiles"))


def _wrong(wrong: Sequence[dict[str, Any]]) -> Iterator[pages.Html]:
    if not wrong:
        return
    rows = [
        (
            one["file"],
            one["predicted"],
            f"{one['probability']:.2f}",
            one["truth"],
            f"{one['probability_of_truth']:.2f}",
        )
        for one in wrong
    ]
    table = pages.table(("file", "taken for", "", "truth", ""), rows, "words")
    yield pages.folded(f"All {len(wrong)} wrong ones, the surest first", table)
