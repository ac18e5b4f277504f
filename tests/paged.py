"""What a page of cnnkit holds, as a browser would find it."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import cnnkit

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"


class Page(HTMLParser):
    """`tags` with their attributes, `text` of what is read, `pre` what stands in <pre>, `rows` of tables."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text, self.pre, self.rows = "", list[str](), list[list[str]]()
        self.script, self._open = "", list[str]()
        self.source = content.decode()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open += [tag] if tag not in ("br", "img", "input", "meta") else []
        if tag == "pre":
            self.pre.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.script += data
        elif "style" not in self._open:
            self.text += data
            if "pre" in self._open:
                self.pre[-1] += data
            elif {"td", "th"} & {*self._open}:
                self.rows[-1][-1] += data

    def of(self, tag: str, kind: str = "") -> list[dict[str, Any]]:
        """The attributes of all elements of a tag, or of those of a class."""
        found = [attributes for name, attributes in self.tags if name == tag]
        return [one for one in found if not kind or kind in (one.get("class") or "").split()]

    @property
    def pictures(self) -> list[tuple[str, str, cnnkit.Image]]:
        """Every picture with its words and its kind, decoded; the words of one beneath sliders are ""."""
        found = [(one["alt"], one["src"]) for one in self.of("img")]
        styles = [attributes.get("style") or "" for _, attributes in self.tags]
        found += [("", re.findall(r"url\((.*)\)", style)[0]) for style in styles if "url(" in style]
        return [(words, *decoded(address)) for words, address in found]

    def asks_nothing(self) -> bool:
        """Whether nothing on it makes a browser ask for anything, and no script but its own can run."""
        addresses = [
            value
            for _, attributes in self.tags
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "poster", "action", "data", "formaction")
        ]
        local = all(address.startswith(("data:image/", "#")) for address in addresses)
        styled = re.findall(r"url\((.{0,11})", self.source)
        handlers = [name for _, attributes in self.tags for name in attributes if name.startswith("on")]
        (policy,) = [one["content"] for one in self.of("meta") if "http-equiv" in one]
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        allowed = policy == f"{POLICY}{digest}'" and len(self.of("script")) == 1
        named = {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in self.tags}
        return local and {*styled} <= {"data:image/"} and not handlers and allowed and not named


def decoded(address: str) -> tuple[str, cnnkit.Image]:
    kind, content = re.fullmatch(r"data:image/(\w+);base64,(.*)", address).groups()  # type: ignore[union-attr]
    return kind, cnnkit.Image.load(base64.b64decode(content))
