"""The contract of an installed package of plugins."""

import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from cnnkit.host.check import check_plugins
from cnnkit.host.host import HOOKS

IMPORTED = """
import importlib, sys
import cnnkit
def loaded():
    return {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
for name in cnnkit.__all__:
    getattr(cnnkit, name)
before = loaded()
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sorted(loaded() - before))
"""
"""Says which packages the modules import that cnnkit itself does not."""


def check_package(name: str) -> None:
    """Assert what every installed package of plugins owes its users.

    Everything that its entry points promise is there and is defined well. Importing it imports no library
    that cnnkit does not, so that `cnnkit run NAME --help` stays quick: that is for the functions that use it.
    It says what it is and under which licence, and depends on cnnkit but not on ONNX Runtime, which comes as
    two wheels that overwrite each other.
    """
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise AssertionError(f"{name} is not installed; say `pip install -e .` in its folder") from None
    reports = check_plugins(package.name)
    assert all(report.good for report in reports), "\n".join(report.text for report in reports)
    assert package.metadata["Summary"], f"{name} has no description in its pyproject.toml"
    licence = {"License-Expression", "License"} & {*package.metadata}
    assert licence, f"{name} has no license in its pyproject.toml"
    needed = {re.split(r"[^\w.-]", line)[0].lower() for line in package.requires or []}
    assert "cnnkit" in needed, f"{name} does not depend on cnnkit"
    runtimes = [package for package in needed if package.startswith("onnxruntime")]
    assert not runtimes, f"{name} depends on {runtimes[0]}; cnnkit chooses the wheel that fits the machine"
    heavy = _imported(package)
    assert not heavy, f"importing {name} imports {', '.join(heavy)}; import it in the function that uses it"


def _imported(package: Distribution) -> list[str]:
    """The libraries of others that importing its plugins imports, in a fresh process."""
    modules = sorted({entry.module for entry in package.entry_points if entry.group in HOOKS})
    found = subprocess.run([sys.executable, "-c", IMPORTED, *modules], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    own = {module.partition(".")[0] for module in modules}
    own |= {top for top, owners in packages_distributions().items() if package.name in owners}
    return [top for top in found.stdout.split() if top not in own]
