"""A report: one page for people of what a run made, its pictures and figures, and how it was made."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cnnkit.errors import CnnkitError, OutputError, UsageError
from cnnkit.host import pages
from cnnkit.host.context import LogReporter, Reporter
from cnnkit.host.jobs import Outcome
from cnnkit.host.pages import Html, element, figures, folded, table, together
from cnnkit.host.paths import make_folder
from cnnkit.host.result import Result
from cnnkit.host.sections import Section
from cnnkit.images.files import write_atomically

SUFFIXES = (".html", ".htm")
HOW = "How it was made"
LISTED = 4
"""Sections from which on the page begins with a list of them."""


def report(
    results: Outcome | Result | Iterable[Outcome | Result], path: str | Path, force: bool = False
) -> Path:
    """Write one HTML page about results, which needs nothing else to be looked at; its path comes back.

    It has a section for each: the pictures, with a slider between a picture and what lies on it, the figures,
    or the sentence of its error; and options, network, time and manifest. `results` may be what `cnnkit.map`
    returns. The picture that a `Result` was made of is read again from its file.

    Raises UsageError for a name that does not end in .html and for no results at all, OutputError where
    something is in the way that cnnkit did not write, or that was changed since, unless `force` is set. What
    is raised while the results are made is raised when the page of those before is written.
    """
    with Report(path, force) as page:
        for result in [results] if isinstance(results, Outcome | Result) else results:
            page.add(result)
    return page.path


class Report:
    """A page that is written when its `with` ends, however that ends.

    Raises UsageError and OutputError as `report` does, at once for what is wrong with its name.
    """

    def __init__(self, path: str | Path, force: bool = False, reporter: Reporter | None = None) -> None:
        self.path, self.force, self.reporter = Path(path), force, reporter or LogReporter()
        if self.path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"a report is one HTML page, with a name such as report.html, not {path}.")
        self._refuse_strangers()
        self.title = ""
        self._begun = time.monotonic()
        self._sections: list[Section] = []
        self._taken: set[Path] = set()

    def add(self, what: Outcome | Result, name: str = "") -> None:
        """A section about it, under a name of its own or that of its source."""
        outcome = what if isinstance(what, Outcome) else _outcome(what)
        self._taken |= {path.absolute() for path in outcome.paths}
        try:
            section = Section.of(outcome, name)
        except (CnnkitError, OSError) as error:  # of a file that was changed or taken away since
            unseen = CnnkitError(f"what was made of it cannot be shown: {error}")
            section = Section.of(replace(outcome, error=unseen), name)
        self._sections.append(section)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sections:
            self._write(error)
        elif error is None:
            raise UsageError(f"there is nothing to report, and {self.path} is not written.")

    def _write(self, stop: BaseException | None) -> None:
        self._refuse_strangers()
        if self.path.absolute() in self._taken:
            raise OutputError(f"{self.path} is a file of the run itself; give the report another name.")
        make_folder(self.path.parent)
        seconds = time.monotonic() - self._begun
        remark = "" if stop is None else f"Stopped: {stop}" if str(stop) else "Interrupted."
        write_atomically(self.path, page(self._sections, seconds, self.title, remark))
        self.reporter.say(f"wrote {self.path}")

    def _refuse_strangers(self) -> None:
        if self.path.is_dir():
            raise OutputError(f"{self.path} is a folder; a report has a name such as report.html.")
        if self.path.exists() and not self.force and not pages.is_as_written(self.path.read_bytes()):
            raise OutputError(
                f"{self.path} exists and is not what cnnkit wrote there; choose another name for the report, "
                "or overwrite it with --force."
            )


def page(sections: Sequence[Section], seconds: float, title: str = "", remark: str = "") -> bytes:
    """The whole page of what took so long, with a title that tells it, and a remark on how it ended."""
    manifests = [section.manifest for section in sections if section.manifest]
    body = [*_head(sections, manifests, seconds, remark), *_listed(sections), *_made(sections)]
    return pages.page(title or _title(manifests), *body)


def _outcome(result: Result) -> Outcome:
    source = (result.manifest["picture"] or {}).get("source")
    return Outcome(source, result, manifest=result.manifest)


def _title(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The operation and the network, where all have the same."""
    operations = {manifest["job"]["operation"] for manifest in manifests}
    networks = {(manifest["model"] or {}).get("name", "") for manifest in manifests}
    if len(operations) != 1:
        return "Report of cnnkit"
    words = [operations.pop(), *(networks if len(networks) == 1 else ())]
    return " with ".join(filter(None, words))


def _head(
    sections: Sequence[Section], manifests: Sequence[Mapping[str, Any]], seconds: float, remark: str
) -> Iterator[Html]:
    failed = sum(section.failed for section in sections)
    summary = [f"{len(sections)} results" if len(sections) > 1 else "", f"{failed} failed" if failed else ""]
    version = f"cnnkit {manifests[0]['cnnkit']}" if manifests else ""
    yield element("p", " · ".join(filter(None, [*summary, f"{seconds:.1f} s", version])), class_="muted")
    if remark:
        yield element("p", remark, class_="failed")
    if len(sections) >= LISTED:
        links = [element("a", each.name, href=f"#{number}") for number, each in enumerate(sections, 1)]
        said = [" (failed)" if each.failed else "" for each in sections]
        lines = (element("li", link, more) for link, more in zip(links, said, strict=True))
        yield element("nav", element("ul", *lines), aria_label="Results")


def _listed(sections: Sequence[Section]) -> Iterator[Html]:
    for number, section in enumerate(sections, 1):
        yield element("section", element("h2", section.name), section.content, id=number)


def _made(sections: Sequence[Section]) -> Iterator[Html]:
    """How, once for all sections that were made in the same way."""
    names = dict[str, list[str]]()
    for section in sections:
        if section.manifest:
            names.setdefault(json.dumps(_how(section.manifest)), []).append(section.name)
    if len(names) == 1:
        yield element("section", element("h2", HOW), _told(json.loads(*names)))
    else:
        for how, alike in names.items():
            yield folded(f"{HOW}: {', '.join(alike)}", _told(json.loads(how)))


def _how(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What results of one call have in common."""
    job = {**manifest["job"], "sources": None}
    return {"job": job, **{name: manifest[name] for name in ("model", "settings", "versions", "plugin")}}


def _told(how: Mapping[str, Any]) -> Html:
    job, model, settings = how["job"], how["model"], how["settings"]
    words = {"operation": job["operation"], "from": how["plugin"], "seed": job["seed"]}
    if model:
        taken = model["preprocessing"]
        size = pages.sides(taken["width"] or "any", taken["height"] or "any")
        words |= {
            "network": model["name"],
            "its input": f"{size}, {taken['channels']}, {taken['fit']}",
            "its licence": model.get("licence") or "not said",
        }
    words |= {"device": settings["device"], "threads": settings["threads"] or "all"}
    options = [
        (element("code", f"--{name.replace('_', '-')}"), value) for name, value in job["options"].items()
    ]
    given = [(name, value) for name, value in options if value not in (None, [])]
    untold = [together(name, " ") for name, value in options if value in (None, [])]
    return together(
        figures(words),
        table(("option", "value"), given, "words") if given else "",
        element("p", "Left open: ", *untold, class_="muted") if untold else "",
    )
