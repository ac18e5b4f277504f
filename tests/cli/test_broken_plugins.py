"""Plugins that are broken in every way: each is one line of talk, and the rest of cnnkit works."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended, environment

Run = Callable[..., Ended]

WHOLE = """
from dataclasses import dataclass
from typing import Annotated
from cnnkit import Operation, Option, Result, hookimpl

@dataclass(frozen=True)
class Options:
    '''Nothing.'''

def run(picture, model, options, context):
    return Result()
"""
HOOK = "@hookimpl\ndef cnnkit_operations():\n    "
FIELD = "@dataclass(frozen=True)\nclass Options:\n    '''Nothing.'''\n    "

BROKEN = {
    "lacks-a-library": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "exits": ("import sys; sys.exit(5)", "SystemExit: 5"),
    "no-python": ("def (:", "SyntaxError: invalid syntax"),
    "raises": ("raise ValueError('first\\nsecond')", "ValueError: first second"),
    "misspelt-hook": (
        WHOLE + "@hookimpl\ndef cnnkit_operation():\n    return []",
        "unknown hook 'cnnkit_operation'",
    ),
    "wrong-argument": (WHOLE + "@hookimpl\ndef cnnkit_operations(host):\n    return []", "{'host'}"),
    "hook-raises": (WHOLE + HOOK + "return 1 / 0", "ZeroDivisionError: division by zero"),
    "hook-rubbish": (WHOLE + HOOK + "return 7", "TypeError: 'int' object is not iterable"),
    "hook-strings": (
        WHOLE + HOOK + "return {'hook-strings': 'x'}",
        "its 'hook-strings' is str, not Operation",
    ),
    "unhooked": (WHOLE, "has nothing for its hook cnnkit_operations"),
    "other-name": (
        WHOLE + HOOK + "return [Operation('elsewhere', run, Options)]",
        "has only elsewhere for its hook cnnkit_operations",
    ),
    "no-dataclass": (WHOLE + HOOK + "return [Operation('no-dataclass', run, dict)]", "is no dataclass"),
    "odd-option": (
        WHOLE + FIELD + "size: complex = 0j\n" + HOOK + "return [Operation('odd-option', run, Options)]",
        "option 'size' has type <class 'complex'>; give its Option a parse function",
    ),
    "taken-option": (
        WHOLE + FIELD + "output: str = ''\n" + HOOK + "return [Operation('taken-option', run, Options)]",
        "option 'output' has a name that every run has for itself",
    ),
    "odd-takes": (
        WHOLE + HOOK + "return [Operation('odd-takes', run, Options, takes='image')]",
        "says 'image', not one of picture, pictures, folder, nothing",
    ),
    "future": ("CNNKIT_API = 2" + WHOLE, "it is written for plugin interface 2, and this cnnkit has 1"),
}
TWIN = WHOLE + HOOK + "return [Operation('twin', run, Options, needs='nothing')]"
CLASSIFY = WHOLE + HOOK + "return [Operation('classify', run, Options)]"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, write_distribution: Callable[..., Path]) -> Path:
    """A folder of distributions, one for each way to be broken."""
    folder = tmp_path_factory.mktemp("broken")
    for name, (source, _) in BROKEN.items():
        module = name.replace("-", "_")
        write_distribution(folder, f"dist-{name}", {"cnnkit.operations": {name: module}}, {module: source})
    write_distribution(folder, "dist-no-module", {"cnnkit.operations": {"no-module": "no_such_module"}})
    for number in ("one", "two"):
        module = f"twin_{number}"
        write_distribution(folder, f"dist-{number}", {"cnnkit.operations": {"twin": module}}, {module: TWIN})
    write_distribution(
        folder, "dist-thief", {"cnnkit.operations": {"classify": "thief"}}, {"thief": CLASSIFY}
    )
    others = {
        "cnnkit.models": {"broken-net": "exits", "lost-net": "lost_net"},
        "cnnkit.losses": {"broken-loss": "exits"},
        "cnnkit.gradient_rules": {"BrokenRule": "no_such_module"},
    }
    net = "from cnnkit import Network, hookimpl\n@hookimpl\ndef cnnkit_models():\n"
    net += "    return [Network('lost-net', 'nowhere', '', lambda: {}['path'])]"
    write_distribution(folder, "dist-others", others, {"lost_net": net})
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_one_line_names_the_culprit(cnnkit: Run, broken: Path, name: str) -> None:
    done = cnnkit("run", name, "sample:shapes", sites=(broken,))
    assert (done.code, done.out) == (2, "")
    assert (
        done.err.startswith(f"error: '{name}' of dist-{name} 1.0 cannot be used: ")
        and done.err.count("\n") == 1
    )
    assert BROKEN[name][1] in done.err
    assert f"`cnnkit plugins check {name}` shows where; CNNKIT_DISABLE={name} silences it." in done.err


def test_an_entry_point_to_nowhere(cnnkit: Run, broken: Path) -> None:
    done = cnnkit("run", "no-module", "sample:shapes", sites=(broken,))
    assert done.code == 2 and done.err.count("\n") == 1
    assert "'no-module' of dist-no-module 1.0" in done.err and "No module named 'no_such_module'" in done.err


def test_the_rest_works(cnnkit: Run, broken: Path) -> None:
    """With every broken distribution installed at once."""
    for command in (["--help"], ["run", "--help"], ["plugins", "list"]):
        done = cnnkit(*command, sites=(broken,))
        assert done.code == 0 and done.err == "", done.err
    done = cnnkit("run", "classify", "sample:portrait", "--model", "default", sites=(broken,))
    assert done.code == 0 and done.err == "" and "face" in done.out
    listed = cnnkit("models", "list", "--quiet", sites=(broken,))
    assert listed.code == 0 and "default" in listed.out.split()
    told = [line for line in listed.err.splitlines() if line.startswith("left out: ")]
    assert len(told) == len(listed.err.splitlines()) == 2, listed.err
    assert "'broken-net' of dist-others 1.0 cannot be used: SystemExit: 5" in told[0]
    assert "the network 'lost-net' cannot be had: KeyError: 'path'" in told[1]
    lost = cnnkit("run", "classify", "sample:portrait", "-m", "lost-net", sites=(broken,))
    assert lost.code == 3 and "'lost-net' cannot be had" in lost.err
    strict = cnnkit("models", "list", sites=(broken,), CNNKIT_STRICT="1", CNNKIT_DISABLE="twin,dist-thief")
    assert strict.code == 2 and "'broken-net' of dist-others" in strict.err


def test_collisions(cnnkit: Run, broken: Path) -> None:
    listed = json.loads(cnnkit("plugins", "list", "--json", sites=(broken,)).out)
    states = {(plugin["name"], plugin["distribution"]): plugin for plugin in listed}
    assert states["classify", "cnnkit"]["state"] == "ready"
    thief = states["classify", "dist-thief"]
    assert thief["state"] == "hidden"
    assert thief["reason"] == "cnnkit itself has 'classify', so dist-thief's is left out"
    assert states["twin", "dist-one"]["state"] == states["twin", "dist-two"]["state"] == "ambiguous"
    done = cnnkit("run", "twin", "sample:shapes", sites=(broken,))
    assert (
        done.code == 2
        and "dist-one and dist-two both have 'twin'; choose dist-one's with CNNKIT_DISABLE=dist-two"
        in done.err
    )
    chosen = cnnkit("run", "twin", "sample:shapes", sites=(broken,), CNNKIT_DISABLE="dist-two")
    assert (chosen.code, chosen.err) == (0, "")


def test_strictly(cnnkit: Run, broken: Path) -> None:
    """CNNKIT_STRICT raises where a plugin would be skipped."""
    done = cnnkit("plugins", "list", sites=(broken,), CNNKIT_STRICT="1")
    assert done.code == 2 and "cannot be used" in done.err and "dist-" in done.err
    assert cnnkit("run", "--help", sites=(broken,), CNNKIT_STRICT="1").code == 2
    script = (
        "import cnnkit; host = cnnkit.Host(); print(sorted(host.losses()), sorted(host.gradient_rules()))"
    )
    command = [sys.executable, "-c", script]
    settings = {"CNNKIT_DISABLE": "twin,dist-thief"}
    mild = subprocess.run(command, env=environment((broken,), **settings), capture_output=True, text=True)
    assert mild.stdout == "[] []\n" and mild.stderr.count("skipped: ") == 2, mild.stderr
    strict = environment((broken,), CNNKIT_STRICT="1", **settings)
    loud = subprocess.run(command, env=strict, capture_output=True, text=True)
    assert loud.returncode == 1 and "PluginError: 'broken-loss' of dist-others" in loud.stderr


def test_check_shows_where(broken: Path, tmp_path: Path) -> None:
    """The one place that shows a traceback, for this is what it was asked for."""
    command = [sys.executable, "-m", "cnnkit", "plugins", "check"]
    done = subprocess.run([*command, "raises"], env=environment((broken,)), capture_output=True, text=True)
    assert done.returncode == 2 and "BROKEN: 'raises' of dist-raises 1.0" in done.stdout
    assert 'raises.py", line 1' in done.stdout and done.stderr == ""
    twins = subprocess.run([*command, "twin"], env=environment((broken,)), capture_output=True, text=True)
    assert twins.returncode == 2 and twins.stdout.count("dist-one and dist-two both have") == 2
