"""Pages for people: HTML that opens from disk, asks nothing of the network, and suits a phone and the dark.

Pictures stand inside as data, and every text that is not `Html` is escaped where it becomes part of a page.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from cnnkit.images.image import Image

VOID = {"br", "img", "input"}
"""Elements that have no end."""

LONGEST = 1280
"""Pixels of the longer side of a photograph on a page."""
DRAWN = 4
"""Bits that a pixel of what is drawn takes at most: a map, a chart. Those of a photograph take more."""
LITTLE, MOST = 30_000, 4_000_000
"""Bytes that a picture of any kind may take as it is, and pixels beyond which it is not tried."""


class Html(str):
    """Text that is HTML already."""


def element(tag: str, *parts: str, **attributes: str | int | None) -> Html:
    """An HTML element of escaped text and `Html`: `element("p", "a < b", class_="muted")`.

    An attribute that is None is left out.
    """
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = together(*parts)
    return Html(f"<{tag}{said}>" if tag in VOID else f"<{tag}{said}>{inside}</{tag}>")


def together(*parts: str) -> Html:
    """The parts one after the other."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


# Pictures


def picture(image: Image, words: str) -> Html:
    """The picture, of which `words` tell who cannot see it."""
    return element("img", src=address(image), alt=words, width=image.width, height=image.height)


def address(image: Image) -> str:
    """A `data:` address of what is seen: exact where it is drawn or small, else a JPEG of up to 1280 pixels.

    WebP holds maps and charts without loss in a fraction of a bit per pixel, and photographs in eight.
    """
    image = replace(image, profile=None)
    pixels = image.height * image.width
    if pixels <= MOST:
        exact = image.encode("webp")
        if len(exact) <= max(LITTLE, pixels * DRAWN / 8):
            return data_address(exact, "webp")
    reduced = min(1.0, LONGEST / max(image.size))
    if reduced < 1:
        height, width = (max(1, round(reduced * side)) for side in image.size)
        image = image.resized(height, width, "area")
    content = io.BytesIO()
    image.flattened().pil().save(content, "JPEG", quality=85, subsampling="4:4:4", optimize=True)
    return data_address(content.getvalue(), "jpeg")


def data_address(content: bytes, kind: str) -> str:
    """The address of a picture file's bytes, "webp", "jpeg", "png" or "gif"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def beneath(image: Image) -> str:
    """The style of an element whose sliders have this picture before what was made of it."""
    return f"--picture: url({address(image)})"


def slider(image: Image, words: str, before: str = "picture", after: str = "") -> Html:
    """What was made of a picture, with that picture above its `inset`, which a slider uncovers.

    Stands in an element of the style `beneath`. `words` tell who cannot see it, `before` and `after` name
    the two.
    """
    top, left, height, width = image.inset or (0, 0, *image.size)
    down, across = 100 / image.height, 100 / image.width
    where = f"--top:{top * down:.4f}%;--left:{left * across:.4f}%"
    size = f"--width:{width * across:.4f}%;--height:{height * down:.4f}%"
    told = f"{before} on the left, {after or words} on the right"
    handle = element(
        "input", type="range", min=0, max=100, value=50, autocomplete="off", aria_label=f"Slide: {told}"
    )
    cover = element("div", element("div", class_="before"), handle, class_="part")
    stack = element("div", picture(image, words), cover, class_="stack")
    caption = element("figcaption", f"{before} ↔ {after or words}")
    return element("figure", stack, caption, class_="slider large", style=f"{where};{size}")


def shown(image: Image, words: str) -> Html:
    """The picture with its words below."""
    return element("figure", picture(image, words), element("figcaption", words), class_="large")


# Figures and tables


def figures(values: Mapping[str, Any], kind: str | None = None) -> Html:
    """A few values with their names."""
    pairs = (
        element("div", element("dt", name), element("dd", worded(value))) for name, value in values.items()
    )
    return element("dl", *pairs, class_=kind)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], kind: str | None = None) -> Html:
    """A table that scrolls by itself where it is too wide; numbers stand to the right.

    `kind` "words" is for one whose long texts break instead.
    """
    lines = [list(row) for row in rows]
    numeric = [_are_numbers(column) for column in zip(*lines, strict=True)]

    def line(tag: str, cells: Sequence[Any]) -> Html:
        return element(
            "tr",
            *(
                element(tag, worded(cell), class_="number" if number else None)
                for cell, number in zip(cells, numeric, strict=False)
            ),
        )

    body = [line("td", cells) for cells in lines]
    return element("div", element("table", line("th", header), *body, class_=kind), class_="wide")


def sides(width: Any, height: Any) -> str:
    """Of a picture, its width before its height, as people write them."""
    return f"{width} \N{MULTIPLICATION SIGN} {height}"


def worded(value: Any) -> str:
    """A value as people read it; a number in four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(worded, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {worded(each)}" for name, each in value.items())
    return value if isinstance(value, str) else "" if value is None else str(value)


def folded(summary: str, *parts: str, opened: bool = False) -> Html:
    """Parts that are seen when their summary is clicked, or at once."""
    inside = element("summary", summary), *parts
    return element("details", *inside, open="") if opened else element("details", *inside)


def _are_numbers(column: Sequence[Any]) -> bool:
    filled = [cell for cell in column if cell not in (None, "")]
    return bool(filled) and all(
        isinstance(cell, int | float) and not isinstance(cell, bool) for cell in filled
    )


# Pages


def page(title: str, *parts: str) -> bytes:
    """The whole page, of which `is_as_written` knows whether anybody changed it since."""
    script, style = _template("slider.js"), _template("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    words = {
        # The browser itself refuses any request, and any other script.
        "policy": f"default-src 'none'; {allowed}",
        "title": escape(title),
        "style": style,
        "script": script,
        "body": "\n".join(together(part) for part in parts),
    }
    first, *rest = _template("page.html").split("@")
    whole = first + "".join(words.get(part, part) for part in rest)
    return _signed(whole.encode(errors="backslashreplace"))  # names of files need not be UTF-8


def is_as_written(content: bytes) -> bool:
    """Whether it is a page that cnnkit wrote, and as it wrote it."""
    return content == _signed(content[: content.rfind(_MARK)])


_MARK = b"<!-- cnnkit "


def _signed(content: bytes) -> bytes:
    return content + _MARK + hashlib.sha256(content).hexdigest().encode() + b" -->\n"


@cache
def _template(name: str) -> str:
    return files("cnnkit.host").joinpath("page", name).read_text("utf-8").rstrip("\n")
