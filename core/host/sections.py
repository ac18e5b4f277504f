"""The sections of a report: what one outcome comes to, from memory or from the files where it lies."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnkit.errors import ImageError
from cnnkit.host import pages
from cnnkit.host.exhibits import unfolded
from cnnkit.host.jobs import Outcome
from cnnkit.host.operation import names_a_file
from cnnkit.host.pages import Html, element, folded
from cnnkit.host.paths import Destination, stem_of
from cnnkit.host.result import Result, jsonable
from cnnkit.images.image import SUFFIXES, Image

AT_ONCE = 12
"""Pictures beside the main ones that are seen without a click."""
GIF = ".gif"


@dataclass(frozen=True)
class Section:
    """What a page says of one outcome: its name, how it was made, and its content."""

    name: str
    content: Html
    failed: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(outcome: Outcome, name: str = "") -> "Section":
        """Of an outcome that a person calls `name`, or else as its source is called."""
        if outcome.error is not None:
            sentence = element("p", str(outcome.error), class_="failed")
            return Section(name or _name(outcome, {}), sentence, failed=True)
        found = Found.lying(outcome.place) if outcome.place else Found.of(outcome.unwrap())
        source = _name(outcome, found.manifest)
        style = None
        original = _original(outcome, found.manifest)
        if original and any(image.inset for image in found.pictures.values()):
            style = pages.beneath(original)
        content = element("div", *_parts(source, outcome, found, original), style=style)
        return Section(name or source, content, manifest=found.manifest)


@dataclass
class Found:
    """A result as it was returned, or as it lies on disk: pictures, and addresses of animations, by part."""

    manifest: Mapping[str, Any]
    data: Mapping[str, Any]
    text: str
    pictures: dict[str, Image] = field(default_factory=dict)
    animations: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    @staticmethod
    def of(result: Result) -> "Found":
        found = Found(result.manifest, jsonable(result.data), result.text, dict(result.pictures))
        for name, content in result.files.items():
            found._take(f".{name}", content)
        return found

    @staticmethod
    def lying(place: Destination) -> "Found":
        manifest = place.read() or {}
        found = Found(manifest, manifest.get("data", {}), manifest.get("text", ""))
        for name in manifest.get("outputs", ()):
            found.files.append(name)
            found._take(name.removeprefix(place.stem.name), place.stem.with_name(name).read_bytes())
        for ending, inset in manifest.get("insets", {}).items():
            part = ending.removeprefix(".")
            found.pictures[part] = replace(found.pictures[part], inset=tuple(inset))
        return found

    def _take(self, ending: str, content: bytes) -> None:
        """Keep what can be seen of a file, which an ending such as ".grid.png" names."""
        part, suffix = Path(f"x{ending}").stem[2:], Path(f"x{ending}").suffix.lower()
        if suffix == GIF or (suffix == ".webp" and b"ANIM" in content[:64]):
            self.animations[part] = pages.data_address(content, suffix[1:])
        elif suffix in SUFFIXES:
            self.pictures.setdefault(part, Image.load(content))


def _name(outcome: Outcome, manifest: Mapping[str, Any]) -> str:
    """As people call it: the picture, the folder, or what it is all about."""
    if outcome.source is not None:
        return (
            Path(outcome.source).absolute().name if names_a_file(outcome.source) else stem_of(outcome.source)
        )
    job = manifest.get("job") or {"sources": [], "operation": "all"}
    return "All pictures together" if job["sources"] else str(job["operation"])


def _original(outcome: Outcome, manifest: Mapping[str, Any]) -> Image | None:
    """The picture that it was made of, if it is still what it was."""
    told = manifest.get("picture")
    source = outcome.picture or outcome.source
    if not told or source is None or (isinstance(source, str) and source == "-"):
        return None
    try:
        image = Image.load(source)
    except ImageError:
        return None
    return image if image.sha256 == told["sha256"] else None


def _parts(name: str, outcome: Outcome, found: Found, original: Image | None) -> Iterator[Html]:
    if remarks := _remarks(outcome, found.manifest):
        yield element("p", " · ".join(remarks), class_="muted")
    if found.pictures or found.animations:
        yield from _seen(name, found, original)
        yield unfolded(found.data, opened=False)
    else:
        said = unfolded(found.data, opened=True) or element("pre", found.text)
        picture = [element("figure", pages.picture(original, name), class_="large")] if original else []
        yield element("div", *picture, element("div", said), class_="beside" if original else None)
    if found.files:
        yield folded("Files", element("p", ", ".join(found.files)))
    yield folded("Manifest", element("pre", json.dumps(found.manifest, indent=2, ensure_ascii=False)))


def _seen(name: str, found: Found, original: Image | None) -> Iterator[Html]:
    """The main pictures, what is said of them, and the others; sliders where the picture lies below."""
    operation, drawn = found.manifest["job"]["operation"], found.pictures
    insets = [part for part, image in drawn.items() if image.inset]
    if original and not insets:
        yield element("figure", pages.picture(original, name), class_="small")
    main = [part for part in drawn if part == ""] or insets or list(drawn)[:1]
    large = [
        pages.slider(drawn[part], f"{part or operation} of {name}", name, part or operation)
        if original and part in insets
        else pages.shown(drawn[part], part or operation)
        for part in main
    ]
    yield element("div", *large, class_="rows broad" if len(large) > 1 else None)
    if found.text:
        yield element("pre", found.text)
    others = [pages.shown(image, part) for part, image in drawn.items() if part not in main]
    others += [
        element("figure", element("img", src=address, alt=part), element("figcaption", part))
        for part, address in found.animations.items()
    ]
    rows = element("div", *others, class_="rows")
    yield rows if len(others) <= AT_ONCE else folded(f"{len(others)} more pictures", rows)


def _remarks(outcome: Outcome, manifest: Mapping[str, Any]) -> list[str]:
    said = list[str]()
    if picture := manifest.get("picture"):
        said += [f"{pages.sides(picture['width'], picture['height'])} pixels", *picture["notes"]]
    if outcome.seconds is not None:
        said.append(f"{outcome.seconds:.1f} s")
    if outcome.unfinished:
        said.append("interrupted: this is what there was by then")
    elif outcome.skipped:
        said.append("made by an earlier run")
    return said
