"""An evaluation as one HTML file that needs nothing else: pictures inside, no script, no request."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from cnnkit import Image
from cnnkit.plugins.evaluation.sheets import Row, Section

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.45 system-ui, sans-serif; color: #202024; background: #fff; margin: 0 auto;
       padding: 1rem; max-width: 70rem }
h1 { font-size: 1.5rem; margin: .2em 0 } h2 { font-size: 1.2rem; margin: 2em 0 .6em }
p { margin: .3em 0 } .muted { color: #6e7684 } .wide { overflow-x: auto }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0 }
dt { color: #6e7684; font-size: .85rem } dd { margin: 0; font-size: 1.4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .2em .8em .2em 0; border-bottom: 1px solid #d7dae0 }
th { font-weight: 600 } th:first-child, td:first-child, .words td, .words th { text-align: left }
.words td { overflow-wrap: anywhere }
img { max-width: 100%; height: auto; display: block } .wide img { max-width: none }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem }
.row { margin: 0 } .row figcaption { margin-bottom: .3rem; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; font-size: .85rem }
.tiles img { width: 100% }
"""

WIDE = 800
"""Wider charts are not made smaller on small screens."""
CHARTS = {"": "What is taken for what", "calibration": "How sure, how right"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses any request."""


def page(
    title: str, data: Mapping[str, Any], charts: Mapping[str, Image], sections: Iterable[Section]
) -> bytes:
    """The page of what `evaluate` found, from its data, its charts by name, and its pictures."""
    return "\n".join(_lines(title, data, charts, sections)).encode()


def _lines(
    title: str, data: Mapping[str, Any], charts: Mapping[str, Image], sections: Iterable[Section]
) -> Iterator[str]:
    name = escape(title)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>"
    yield from _figures(data)
    for section in filter(lambda section: section.rows, sections):
        yield f'<h2>{escape(section.title)}</h2>\n<div class="rows">'
        yield from map(_row, section.rows)
        yield "</div>"
    yield from _wrong(data["wrong"])
    for name, words in CHARTS.items():
        kind = "wide" if charts[name].width > WIDE else ""
        yield f'<h2>{escape(words)}</h2>\n<div class="{kind}">{_img(charts[name], words, "png")}</div>'
    yield from _classes(data["per_class"])
    yield "</body>\n</html>\n"


def _figures(data: Mapping[str, Any]) -> Iterator[str]:
    shown = {
        "pictures": f"{data['pictures']}",
        "accuracy": f"{data['accuracy']:.1%}",
        **({"top-5": f"{data['top']['5']:.1%}"} if "5" in data["top"] else {}),
        "mean recall": f"{data['balanced_accuracy']:.3f}",
        "mean F1": f"{data['macro_f1']:.3f}",
        "cross-entropy": f"{data['cross_entropy']:.3f}",
        "calibration error": f"{data['calibration_error']:.3f}",
    }
    yield "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in shown.items()) + "</dl>"
    if data["explained_by"] != "none":
        yield f'<p class="muted">Heat maps by {data["explained_by"]}, each on its own scale</p>'
    if left_out := data["unreadable"]:
        yield f'<p class="muted">Left out, for they cannot be read: {len(left_out)}</p>'


def _row(row: Row) -> str:
    tiles = "".join(f"<div>{_img(tile, name)}{escape(name)}</div>" for name, tile in row.tiles)
    return (
        f'<figure class="row"><figcaption>{escape(row.caption)}<br>'
        f'<span class="muted">{escape(row.file)}</span></figcaption>'
        f'<div class="tiles">{tiles}</div></figure>'
    )


def _wrong(wrong: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not wrong:
        return
    yield f'<details><summary>All {len(wrong)} wrong ones, the surest first</summary><table class="words">'
    yield "<tr><th>file</th><th>taken for</th><th></th><th>truth</th><th></th></tr>"
    for one in wrong:
        cells = (
            one["file"],
            one["predicted"],
            f"{one['probability']:.2f}",
            one["truth"],
            f"{one['probability_of_truth']:.2f}",
        )
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></details>"


def _classes(classes: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield '<h2>Each class</h2>\n<div class="wide"><table>'
    yield "<tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>pictures</th></tr>"
    for one in classes:
        values = [f"{one[name]:.3f}" for name in ("precision", "recall", "f1")]
        cells = [escape(one["label"]), *values, str(one["pictures"])]
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table></div>"


def _img(picture: Image, words: str, format: str = "jpg") -> str:
    coded = base64.b64encode(picture.encode(format)).decode()
    kind = {"jpg": "jpeg"}.get(format, format)
    return (
        f'<img src="data:image/{kind};base64,{coded}" alt="{escape(words)}" '
        f'width="{picture.width}" height="{picture.height}">'
    )
