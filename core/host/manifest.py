"""What a result was made of: the manifest beside it and the provenance inside its pictures."""

import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cnnkit.host.context import Settings
from cnnkit.host.operation import Job, portable
from cnnkit.host.result import jsonable

if TYPE_CHECKING:
    from cnnkit.graphs.model import Model
    from cnnkit.images.image import Image

LIBRARIES = ("numpy", "onnx", "pillow")


def manifest(
    job: Job, settings: Settings, picture: "Image | None", model: "Model | None", plugin: str
) -> dict[str, Any]:
    """Everything that repeats a result: the job, what it met, and the versions that ran it. JSON-able.

    `plugin` names the distribution and version that the operation came from.
    """
    return {
        "cnnkit": version("cnnkit"),
        "job": jsonable(job.to_json()),
        "settings": asdict(settings),
        "plugin": plugin,
        "picture": _picture(picture),
        "model": _model(model),
        "versions": versions(),
    }


def provenance(whole: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that travels inside a picture: no paths of the machine that made it."""
    return {
        "version": whole["cnnkit"],
        "operation": whole["job"]["operation"],
        "options": whole["job"]["options"],
        "seed": whole["job"]["seed"],
        "picture": (whole["picture"] or {}).get("sha256"),
        "model": {key: (whole["model"] or {}).get(key) for key in ("name", "sha256")},
    }


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of the runtime and of the libraries whose numbers matter."""
    from cnnkit.runtime.device import onnxruntime

    runtime = {"onnxruntime": str(onnxruntime().__version__)}
    libraries = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "platform": platform.platform(), **runtime, **libraries}


def _picture(picture: "Image | None") -> dict[str, Any] | None:
    if picture is None:
        return None
    return {
        "source": portable(picture),
        "sha256": picture.sha256,
        "height": picture.height,
        "width": picture.width,
        "notes": list(picture.notes),
    }


def _model(model: "Model | None") -> dict[str, Any] | None:
    if model is None:
        return None
    return {
        "name": model.name,
        "source": str(model.source.absolute()) if model.source else None,
        "sha256": model.sha256,
        "licence": model.licence,
        "preprocessing": model.preprocessing.to_json(),
        "assumptions": list(model.assumptions),
    }
