"""The documentation: its Python runs, links lead somewhere, the reference is current."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "examples" not in page.relative_to(DOCS).parts)
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for _, spoken, code in FENCE.findall(page.read_text("utf-8")) if spoken == language]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_blocks_run_one_after_the_other(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"block {number}", "exec"), names)


def test_the_quick_start_says_what_it_prints(tmp_path: Path) -> None:
    command = "run occlusion sample:portrait"
    page = (DOCS / "index.md").read_text("utf-8")
    assert f"cnnkit {command}\n" in page
    started = [sys.executable, "-m", "cnnkit", *command.split()]
    ended = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in page.replace("\n    ", "\n")


def anchors(page: Path) -> set[str]:
    """What a link to the page may name, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    seen: Counter[str] = Counter()
    found = set()
    for slug in slugs:
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(page: Path) -> list[str]:
    """Where the links and the pictures of a page lead."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text("utf-8")))
    return re.findall(r"(?:\]\(|src=\")([^)\"\s]+)", prose)


@pytest.mark.parametrize(
    "page", [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_the_navigation() -> None:
    """The lists at the end of index.md; conf.py makes the site's navigation of them."""
    _, listed = (DOCS / "index.md").read_text("utf-8").split("\n## All pages\n")
    found = re.findall(r"^- \[.*?\]\((.*?)\)", listed, re.MULTILINE)
    assert sorted(found) == sorted(str(page.relative_to(DOCS)) for page in PAGES if page.name != "index.md")


@pytest.fixture
def reference() -> ModuleType:
    spec = spec_from_file_location("reference", DOCS / "recipes" / "reference.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current_whatever_the_machine(
    reference: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_distribution: Callable[..., Path],
) -> None:
    write_distribution(tmp_path, "other", {"cnnkit.operations": {"aardvark": "nowhere"}})
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in ("COLUMNS", "40"), ("CNNKIT_DISABLE", "occlusion"), ("CNNKIT_DEVICE", "cuda"):
        monkeypatch.setenv(name, value)
    for name, text in reference.pages().items():
        stale = f"docs/{name} is not what the code says: run python docs/recipes/reference.py"
        assert text == (DOCS / name).read_text("utf-8"), stale
