"""cnnkit: image operations over any convolutional ONNX graph, on the stock ONNX Runtime wheel.

The public names, each loaded at its first use (PEP 562), so that the command line starts without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

API = 1
"""Number of the plugin interface. A plugin module may set `CNNKIT_API`; another number is refused."""

if TYPE_CHECKING:
    from cnnkit.errors import CnnkitError as CnnkitError
    from cnnkit.errors import DeviceError as DeviceError
    from cnnkit.errors import ImageError as ImageError
    from cnnkit.errors import ModelError as ModelError
    from cnnkit.errors import OutputError as OutputError
    from cnnkit.errors import PluginError as PluginError
    from cnnkit.errors import UsageError as UsageError
    from cnnkit.errors import did_you_mean as did_you_mean
    from cnnkit.graphs import losses as losses
    from cnnkit.graphs import schedules as schedules
    from cnnkit.graphs.autodiff.backward import gradients as gradients
    from cnnkit.graphs.autodiff.rules import RULES as RULES
    from cnnkit.graphs.builder import Builder as Builder
    from cnnkit.graphs.gradient_model import gradient_model as gradient_model
    from cnnkit.graphs.graph import Graph as Graph
    from cnnkit.graphs.graph import Layer as Layer
    from cnnkit.graphs.measure import measure as measure
    from cnnkit.graphs.model import Model as Model
    from cnnkit.graphs.optimizers import SGD as SGD
    from cnnkit.graphs.optimizers import Adam as Adam
    from cnnkit.graphs.optimizers import AdamW as AdamW
    from cnnkit.graphs.optimizers import Averaged as Averaged
    from cnnkit.graphs.optimizers import Clamped as Clamped
    from cnnkit.graphs.planes import Plane as Plane
    from cnnkit.graphs.planes import planes as planes
    from cnnkit.graphs.reach import Reach as Reach
    from cnnkit.graphs.reach import reach as reach
    from cnnkit.graphs.reshaping import folded as folded
    from cnnkit.graphs.targets import Scores as Scores
    from cnnkit.graphs.targets import label_of as label_of
    from cnnkit.graphs.targets import last_plane as last_plane
    from cnnkit.graphs.targets import resolve_targets as resolve_targets
    from cnnkit.graphs.training import Loss as Loss
    from cnnkit.host import pages as pages
    from cnnkit.host.context import Context as Context
    from cnnkit.host.context import Settings as Settings
    from cnnkit.host.delivery import rerun as rerun
    from cnnkit.host.hookspecs import Network as Network
    from cnnkit.host.hookspecs import Source as Source
    from cnnkit.host.hookspecs import hookimpl as hookimpl
    from cnnkit.host.host import Host as Host
    from cnnkit.host.jobs import Outcome as Outcome
    from cnnkit.host.jobs import map as map
    from cnnkit.host.jobs import run as run
    from cnnkit.host.operation import Job as Job
    from cnnkit.host.operation import ModelSpec as ModelSpec
    from cnnkit.host.operation import Operation as Operation
    from cnnkit.host.options import Option as Option
    from cnnkit.host.pull import pull as pull
    from cnnkit.host.report import report as report
    from cnnkit.host.result import Result as Result
    from cnnkit.host.sweep import sweep as sweep
    from cnnkit.images import drawing as drawing
    from cnnkit.images.augmentation import Augmentation as Augmentation
    from cnnkit.images.augmentation import mixed as mixed
    from cnnkit.images.dataset import Dataset as Dataset
    from cnnkit.images.dataset import Split as Split
    from cnnkit.images.dataset import manifest_of as manifest_of
    from cnnkit.images.image import Image as Image
    from cnnkit.images.preprocessing import Geometry as Geometry
    from cnnkit.images.preprocessing import Preprocessing as Preprocessing
    from cnnkit.images.preprocessing import resize_map as resize_map
    from cnnkit.runtime.device import available_memory as available_memory
    from cnnkit.runtime.lbfgs import LBFGS as LBFGS
    from cnnkit.runtime.lbfgs import Iterate as Iterate
    from cnnkit.runtime.lbfgs import Reason as Reason
    from cnnkit.runtime.minimize import Minimum as Minimum
    from cnnkit.runtime.minimize import Tolerances as Tolerances
    from cnnkit.runtime.minimize import minimize as minimize
    from cnnkit.runtime.minimize import objective_of as objective_of
    from cnnkit.runtime.session import Session as Session
    from cnnkit.runtime.training import TrainingSession as TrainingSession

_ROOMS = {
    "errors": (
        "CnnkitError DeviceError ImageError ModelError OutputError PluginError UsageError did_you_mean"
    ),
    "graphs.autodiff.backward": "gradients",
    "graphs.autodiff.rules": "RULES",
    "graphs.builder": "Builder",
    "graphs.gradient_model": "gradient_model",
    "graphs.graph": "Graph Layer",
    "graphs.measure": "measure",
    "graphs.model": "Model",
    "graphs.optimizers": "Adam AdamW Averaged Clamped SGD",
    "graphs.planes": "Plane planes",
    "graphs.reach": "Reach reach",
    "graphs.reshaping": "folded",
    "graphs.targets": "Scores label_of last_plane resolve_targets",
    "graphs.training": "Loss",
    "host.context": "Context Settings",
    "host.hookspecs": "Network Source hookimpl",
    "host.host": "Host",
    "host.delivery": "rerun",
    "host.jobs": "Outcome map run",
    "host.operation": "Job ModelSpec Operation",
    "host.options": "Option",
    "host.pull": "pull",
    "host.report": "report",
    "host.result": "Result",
    "host.sweep": "sweep",
    "images.augmentation": "Augmentation mixed",
    "images.dataset": "Dataset Split manifest_of",
    "images.image": "Image",
    "images.preprocessing": "Geometry Preprocessing resize_map",
    "runtime.device": "available_memory",
    "runtime.lbfgs": "Iterate LBFGS Reason",
    "runtime.minimize": "Minimum Tolerances minimize objective_of",
    "runtime.session": "Session",
    "runtime.training": "TrainingSession",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}

_MODULES = {"drawing": "images", "losses": "graphs", "pages": "host", "schedules": "graphs"}

__all__ = sorted([*_HOMES, *_MODULES, "API"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cnnkit")
    if name in _MODULES:
        return import_module(f"cnnkit.{_MODULES[name]}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnkit' has no attribute '{name}'")
    value = getattr(import_module(f"cnnkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
