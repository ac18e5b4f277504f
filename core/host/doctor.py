"""`cnnkit doctor`: what this installation is, and what is wrong with it."""

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cnnkit.errors import CnnkitError, PluginError
from cnnkit.host.host import HOOKS, Host
from cnnkit.host.store import store

LIBRARIES = "cnnkit onnxruntime onnxruntime-gpu onnx numpy pillow pluggy typer matplotlib".split()
VARIABLES = [
    f"CNNKIT_{name}" for name in "HOME MIRROR OFFLINE DISABLE STRICT MODEL DEVICE THREADS MAX_MEMORY".split()
]


@dataclass(frozen=True)
class Diagnosis:
    """Facts by name, and the complaints: each a sentence with what to do."""

    facts: dict[str, Any]
    complaints: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at versions, devices, plugins and folders; run the default network once."""
    complaints: list[str] = []
    installed = {name: found for name in LIBRARIES if (found := _version(name))}
    if "onnxruntime" in installed and "onnxruntime-gpu" in installed:
        complaints.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install cnnkit again."
        )
    facts = {
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": installed,
        "device": _device(complaints),
        "plugins": _plugins(complaints),
        "networks": str(store()),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "default network": _first_run(complaints),
    }
    return Diagnosis(facts, complaints)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(complaints: list[str]) -> str:
    from cnnkit.runtime.device import describe_device

    try:
        return describe_device()
    except CnnkitError as error:
        complaints.append(str(error))
        return "none"


def _plugins(complaints: list[str]) -> dict[str, Any]:
    host = Host(strict=False)
    for plugin in host.plugins:
        if plugin.state == "ready":
            try:
                host.load(plugin)
            except PluginError as error:
                complaints.append(str(error))
        elif plugin.state != "disabled":
            complaints.append(f"{plugin} is left out: {plugin.reason}.")
    return {group: host.names(group) for group in HOOKS}


def _first_run(complaints: list[str]) -> str:
    """What the default network sees in a sample, by the runtime alone, so that no plugin is to blame."""
    from cnnkit.graphs.targets import label_of
    from cnnkit.host.operation import ModelSpec
    from cnnkit.images.image import Image
    from cnnkit.runtime.session import Session

    try:
        model = Host(disabled=()).model(ModelSpec("default"))
        prepared = model.preprocessing.apply(Image.load("sample:portrait"))
        scores = model.probabilities
        (found,) = scores.of(Session(model).run(prepared.tensor, [scores.tensor]))
    except CnnkitError as error:
        complaints.append(f"the default network does not run: {error}")
        return "fails"
    best = int(found.argmax())
    return f"sees '{label_of(best, model.labels)}' in sample:portrait ({found[best]:.2f})"
