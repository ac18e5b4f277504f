"""The packages of plugins that cnnkit writes and shows: installed with pip, they pass their own tests."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from cnnkit.host.template import KINDS, write_plugin

from .conftest import Ended, environment

Run = Callable[..., Ended]

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted(DOCS.glob("examples/cnnkit-*"))
NAMES = {
    "operation": "edges",
    "model": "tiny-net",
    "gradient-rule": "com.acme.LeftTurn",
    "loss": "pseudo-huber",
}


class Packages(NamedTuple):
    """The folders of the packages, and the one that they are installed in."""

    folders: list[Path]
    site: Path


@pytest.fixture(scope="module")
def packages(install: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Packages:
    new = tmp_path_factory.mktemp("new")
    written = [write_plugin(name, str(new / kind), kind).folder for kind, name in NAMES.items()]
    folders = [*EXAMPLES, *written]
    return Packages(folders, install(*folders))


def test_they_pass_their_own_tests(packages: Packages, tmp_path: Path) -> None:
    assert NAMES.keys() == KINDS.keys() and len(EXAMPLES) == 3
    tests = [path for folder in packages.folders for path in sorted((folder / "tests").glob("test_*.py"))]
    settings = ["-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *settings, *map(str, tests)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment((packages.site,)), capture_output=True, text=True
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr
    written = sum(len(re.findall(r"^def test_", path.read_text("utf-8"), re.MULTILINE)) for path in tests)
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= written >= 3 * len(packages.folders)


def test_they_can_be_published(packages: Packages) -> None:
    """What package indexes show of each, and what pip reads."""
    from importlib.metadata import distributions

    found = {package.name: package for package in distributions(path=[str(packages.site)])}
    assert len(found) == len(packages.folders)
    for name, package in found.items():
        told = package.metadata
        assert told["License-Expression"] == "MIT" and told["Requires-Python"] == ">=3.11"
        assert "for cnnkit" in told["Summary"]
        page = told["Description"] or told.get_payload()
        assert page.startswith(f"# {name}\n") and f"```sh\npip install {name}\n" in page
    edges = found["cnnkit-edges"].metadata
    assert edges["License-File"] == "LICENSE" and len(edges.get_all("Classifier")) >= 5
    assert [url.partition(",")[0] for url in edges.get_all("Project-URL")] == ["Source", "Issues"]


def test_what_they_bring_works(cnnkit: Run, packages: Packages, tmp_path: Path) -> None:
    sites = (packages.site,)
    Image.fromarray(np.full((6, 6, 3), 9, np.uint8)).save(tmp_path / "flat.png")
    done = cnnkit("run", "edges", "flat.png", "--strength", "2", sites=sites)
    assert (done.code, done.out) == (0, "mean edge 0.00 of 255\n")
    assert not np.asarray(Image.open(tmp_path / "flat.edges.png")).any()
    assert cnnkit("run", "classify", "flat.png", "--model", "tiny-net", sites=sites).code == 0
    lrp = cnnkit("run", "lrp", "flat.png", "--target", "dragonfly", sites=sites)
    assert lrp.code == 0 and "dragonfly" in lrp.out, lrp.err
    good = cnnkit("plugins", "check", "cnnkit-spatial-transformer", sites=sites)
    assert good.code == 0 and good.out.count("\n  good\n") == 2


def test_help_does_not_wait_for_heavy_libraries(packages: Packages) -> None:
    script = "import sys; from cnnkit.cli.main import main; sys.argv = ['cnnkit', 'run', 'lime', '--help']\n"
    script += "try: main()\nexcept SystemExit: print('skimage' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment((packages.site,)), capture_output=True, text=True
    )
    assert "--superpixels" in done.stdout and done.stdout.endswith("False\n"), done.stderr


def test_new(cnnkit: Run, tmp_path: Path) -> None:
    made = cnnkit("plugins", "new", "edges")
    assert (made.code, made.out) == (0, "") and "pip install -e 'cnnkit-edges[test]'" in made.err
    again = cnnkit("plugins", "new", "edges")
    assert again.code == 1 and "exists and is not empty" in again.err
    begun = cnnkit("plugins", "new", "GridSample", "--kind", "gradient-rule")
    assert begun.code == 0 and "What GridSample's gradient is you write" in begun.err
    for name, kind, said in (
        ("-x", "operation", "lower-case words joined by hyphens, such as soft-edges, not '-x'"),
        (
            "edges",
            "los",
            "--kind takes operation, model, gradient-rule, loss, not 'los'. Did you mean 'loss'?",
        ),
    ):
        wrong = cnnkit("plugins", "new", "--kind", kind, "--", name)
        assert wrong.code == 2 and said in wrong.err


@pytest.mark.slow
def test_the_page_literally(tmp_path: Path) -> None:
    """The commands of docs/plugins.md from a bare directory, in an environment that has cnnkit."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    here = [path for path in sys.path if path.endswith("site-packages")]
    # addsitedir, so that an editable cnnkit is found as well
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (Path(site) / "beside.pth").write_text("\n".join(lines))
    (tmp_path / "bare").mkdir()
    commands = re.findall(r"```sh\n(.*?)```", (DOCS / "plugins.md").read_text("utf-8"), re.DOTALL)
    assert commands[0].startswith("cnnkit plugins new edges") and "python -m build" in commands[1]
    script = 'set -e\ncnnkit() { python -m cnnkit "$@"; }\npytest() { python -m pytest "$@"; }\n'
    done = subprocess.run(
        ["bash", "-c", script + commands[0] + commands[1]],
        cwd=tmp_path / "bare",
        env=environment((), PATH=f"{python.parent}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "bare" / "portrait.edges.png").exists() and "4 passed" in done.stdout
    assert list((tmp_path / "bare").glob("cnnkit-edges/dist/cnnkit_edges-0.1.0-py3-none-any.whl"))
