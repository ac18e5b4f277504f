"""`cnnkit check gradient`: is the gradient of this network right, on this machine?"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import ModelError
from cnnkit.host.context import LogReporter, Reporter
from cnnkit.host.host import Host, default_host
from cnnkit.host.operation import ModelSpec

if TYPE_CHECKING:
    from cnnkit.graphs.autodiff.layer_check import LayerCheck
    from cnnkit.graphs.model import Model
    from cnnkit.runtime.slope import WholeSlope

BAD = ("wrong", "no rule", "refused")
_PICTURES = ("portrait", "shapes")


@dataclass(frozen=True)
class GradientReport:
    """What a check of a network's gradient found.

    `layers` are in the graph's order; `whole` are slopes of the whole network, or the sentence that says why
    there is none, and empty where only some layers were asked about.
    """

    network: str
    layers: list["LayerCheck"]
    whole: "list[WholeSlope] | str"
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing is wrong, and what could not be checked by itself is right within the whole."""
        all_checked = all(layer.verdict == "good" for layer in self.layers)
        nothing_bad = not any(layer.verdict in BAD for layer in self.layers)
        if not self.whole:
            return all_checked
        if isinstance(self.whole, str):
            return False
        wrong = any(slope.clear and not slope.good for slope in self.whole)
        return nothing_bad and not wrong and (all_checked or any(slope.good for slope in self.whole))

    @property
    def sentence(self) -> str:
        """The whole in a few words, with figures."""
        count = sum(1 + len(layer.alike) for layer in self.layers)
        told = {kind: sum(layer.verdict == kind for layer in self.layers) for kind in (*BAD, "not checked")}
        faults = ", ".join(f"{number} {kind}" for kind, number in told.items() if number) or "all good"
        parts = [f"{len(self.layers)} different gradients, which stand for {count}: {faults}"]
        with_error = [layer for layer in self.layers if layer.error is not None]
        if with_error:
            worst = max(with_error, key=lambda layer: layer.error or 0.0)
            parts.append(f"the worst is off by {worst.error:.1e} ({worst.layer})")
            rough = max(layer.error_on_runtime or 0.0 for layer in with_error)
            parts.append(f"on ONNX Runtime in float32 by {rough:.1e}")
        parts.append(self._whole())
        return "; ".join(filter(None, parts)) + f"; {self.seconds:.1f} s"

    def _whole(self) -> str:
        if isinstance(self.whole, str):
            return f"the whole network has no gradient: {self.whole}" if self.whole else ""
        if not self.whole:
            return ""
        worst = max(self.whole, key=lambda slope: (slope.clear, slope.error))
        if not worst.clear:
            return f"the whole network's slope cannot be measured: it varies by {worst.noise:.1e}"
        agrees = "agrees to" if worst.good else "is WRONG by"
        return f"the whole network's slope {agrees} {worst.error:.1e} (noise {worst.noise:.1e})"

    def rows(self) -> list[tuple[str, ...]]:
        """A line for each layer, as a table shows it."""
        return [
            (
                layer.layer + (f" and {len(layer.alike)} alike" if layer.alike else ""),
                layer.operator,
                "?" if layer.shape is None else "x".join("N" if s is None else str(s) for s in layer.shape),
                f"{layer.what} {layer.index}",
                _figure(layer.error),
                _figure(layer.error_on_runtime),
                layer.verdict + (f": {layer.reason}" if layer.reason else ""),
            )
            for layer in self.layers
        ]

    def to_json(self) -> dict[str, Any]:
        slopes = [] if isinstance(self.whole, str) else self.whole
        return {
            "network": self.network,
            "good": self.good,
            "seconds": round(self.seconds, 3),
            "layers": [asdict(layer) for layer in self.layers],
            "whole": {
                "slopes": [{**asdict(slope), "error": slope.error, "good": slope.good} for slope in slopes],
                "problem": self.whole if isinstance(self.whole, str) else "",
            },
        }


COLUMNS = ("layer", "operator", "output", "of", "error", "float32", "verdict")


def check_gradient(
    network: "str | ModelSpec | Model",
    layers: str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    host: Host | None = None,
    reporter: Reporter | None = None,
) -> GradientReport:
    """Check the gradient of a network, layer by layer in float64 and, unless `layers` picks some, as a whole.

    `network` is a name, a path, a `ModelSpec` or a `Model`. The values are those of sample pictures. Raises
    ModelError when the network cannot be loaded or run, and UsageError for layers that it does not have.
    """
    from cnnkit.graphs.autodiff.layer_check import LayerChecker

    started = time.perf_counter()
    host, reporter = host or default_host(), reporter or LogReporter()
    spec = ModelSpec(network) if isinstance(network, str) else network
    model = host.model(spec) if isinstance(spec, ModelSpec) else spec
    rules = host.gradient_rules()
    checker = LayerChecker(model, layers=layers, rules=rules, seed=seed)
    runner = _Runner(model, device, threads)
    pictures = _pictures(model)
    found = reporter.progress(checker.run(pictures, runner), len(checker.checks), "checking layers")
    checks = list(found)
    whole: list[WholeSlope] | str = ""
    if layers is None:
        whole = _whole(model, pictures[: model.graph.batch or 1], rules, seed, device, threads)
    return GradientReport(model.name, checks, whole, time.perf_counter() - started)


def _whole(
    model: "Model",
    picture: NDArray[Any],
    rules: Mapping[str, Any],
    seed: int,
    device: str,
    threads: int | None,
) -> "list[WholeSlope] | str":
    from cnnkit.runtime.slope import whole_slopes

    try:
        of = model.logits.tensor
    except ModelError:  # no classifier
        of = model.graph.outputs[0].name
    try:
        return whole_slopes(model, picture, of, rules, seed, device=device, threads=threads)
    except ModelError as error:
        return str(error)


class _Runner:
    """Runs pieces of a network on ONNX Runtime."""

    def __init__(self, model: "Model", device: str, threads: int | None) -> None:
        self._model, self._device, self._threads = model, device, threads

    def __call__(self, proto: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        from cnnkit.runtime.device import one_sentence, start

        session = start(proto, self._model.graph.files, self._model.name, self._device, self._threads)
        outputs = [value.name for value in session.get_outputs()]
        try:
            return dict(zip(outputs, session.run(None, dict(feeds)), strict=True))
        except Exception as error:  # ONNX Runtime's own kinds
            raise ModelError(f"ONNX Runtime failed on '{self._model.name}': {one_sentence(error)}") from None


def _pictures(model: "Model") -> NDArray[Any]:
    """Two sample pictures, or as many as the network always takes, prepared for it."""
    from cnnkit.images.image import Image

    prepared = [model.preprocessing.apply(Image.load(f"sample:{name}")).tensor for name in _PICTURES]
    if len({tensor.shape for tensor in prepared}) > 1:
        prepared = prepared[:1]
    batch = np.concatenate(prepared)
    count = model.graph.batch or len(batch)
    return batch[np.arange(count) % len(batch)].astype(model.graph.input.dtype)


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.1e}"
