"""The site that docs/ makes: `sphinx-build -W --keep-going -c . docs build/site`."""

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "cnnkit"
extensions = ["myst_parser"]
exclude_patterns = ["examples", "recipes"]
nitpicky = True
smartquotes = False  # `--` is how a flag begins
myst_heading_anchors = 3
html_theme = "furo"
html_title = "cnnkit"
html_show_sourcelink = False
html_copy_source = False
html_use_index = False


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the lists of pages at the end of index.md, which any viewer shows, the site's navigation too."""
    if page != "index":
        return
    source[0] += toctree("", ["Quick start <self>"])
    for group in source[0].split("\n### ")[1:]:
        caption, _, links = group.partition("\n")
        pages = re.findall(r"^- \[(.*?)\]\((.*?)\.md\)", links, re.MULTILINE)
        source[0] += toctree(f":caption: {caption}\n", [f"{title} <{name}>" for title, name in pages])


def toctree(option: str, entries: list[str]) -> str:
    return "\n```{toctree}\n:hidden:\n" + option + "\n" + "\n".join(entries) + "\n```\n"


def keep_as_text(app: Sphinx, page: str, source: list[str]) -> None:
    """A link to what only the repository has, a folder or a page outside of the site, is plain text here."""

    def kept(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = (Path(app.srcdir, page).parent / target).resolve()
        is_page = path.suffix == ".md" and app.env.path2doc(str(path)) in app.env.found_docs
        is_elsewhere = path.is_dir() or (path.is_file() and path.suffix == ".md" and not is_page)
        return text if is_elsewhere else link[0]

    source[0] = re.sub(r"\[([^\]]*)\]\(([^)#:]+)\)", kept, source[0])


def keep_flags_whole(app: Sphinx, page: str, template: str, context: dict[str, str], tree: object) -> None:
    """A browser would begin a new line after any hyphen of `--max-layers`."""
    context["metatags"] = context.get("metatags", "") + "<style>code .pre { white-space: nowrap }</style>"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("source-read", keep_as_text)
    app.connect("html-page-context", keep_flags_whole)
