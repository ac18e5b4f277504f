"""The Python of the documentation runs, page by page."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    pytest.param(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL), id=page.stem)
    for page in sorted(DOCS.glob("*.md"))
]


@pytest.mark.parametrize("blocks", PAGES)
def test_blocks_run_one_after_the_other(
    blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number}", "exec"), names)


def test_links_lead_somewhere() -> None:
    for page in [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", prose):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
