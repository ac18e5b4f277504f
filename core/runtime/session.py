"""`Session`: forward runs of a network, with taps on any tensor."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import ModelError, UsageError
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.measure import measure
from cnnkit.graphs.model import Model
from cnnkit.runtime.device import available_memory, one_sentence, providers, start

LARGEST_BATCH = 32
SMALLEST_BATCH = 4
"""Dense layers round differently for 1, 2 and 3 pictures, and alike for every multiple of 4: so the size of a
batch, which is measured and varies from run to run, leaves no trace in the results."""
DEFAULT_MEMORY = {"cpu": 128 << 20, "cuda": 2 << 30}
"""Bytes of activations of one batch: on a CPU, larger batches were seen to gain little."""

Outputs = dict[str, NDArray[Any]]


class Session:
    """Runs a model on a device.

    `threads` is the number of cores to use (default all), `max_memory` the bytes that the activations of a
    batch may take, `batch` a fixed number of pictures per run of `map` in place of a measured one.

    Raises DeviceError when a device was asked for by name and is not there.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        threads: int | None = None,
        max_memory: int | None = None,
        batch: int | None = None,
    ) -> None:
        self.model = model
        self._asked = device
        self._providers = providers(device)
        self._threads = threads
        self._memory = max_memory or min(DEFAULT_MEMORY[self.device], available_memory() // 4)
        self._batch = model.graph.batch or batch
        self._parts: dict[tuple[str, ...], _Part] = {}

    @property
    def device(self) -> str:
        """What the session really runs on: "cpu" or "cuda"."""
        return "cuda" if self._providers[0].startswith("CUDA") else "cpu"

    def run(self, batch: NDArray[Any], taps: Sequence[str] = ()) -> Outputs:
        """The tensors named by `taps` (default: the model's outputs) for a batch of prepared pictures.

        `batch` is (batch, channels, height, width), or (batch, height, width, channels), as the graph has it.
        Floating-point tensors come back as float32. Raises ModelError when ONNX Runtime fails.
        """
        if batch.ndim != 4:
            raise UsageError(f"a batch of pictures has 4 dimensions; this array has the shape {batch.shape}")
        part = self._part(taps)
        size = self.model.graph.batch
        if size is None or size == len(batch):
            return part.run(batch)
        pieces = []
        for first in range(0, len(batch), size):
            piece = batch[first : first + size]
            surplus = size - len(piece)
            padded = np.concatenate([piece, piece[-1:].repeat(surplus, axis=0)])
            pieces.append({name: value[: len(piece)] for name, value in part.run(padded).items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def map(self, items: Iterable[NDArray[Any]], taps: Sequence[str] = ()) -> Iterator[Outputs]:
        """The tapped tensors of each picture, in order; pictures and tensors are without the batch dimension.

        Batches are as large as pays on this work and fits the memory. Each item is copied when it is drawn.
        """
        part = self._part(taps)
        waiting: list[NDArray[Any]] = []
        for item in items:
            if waiting and item.shape != waiting[0].shape:
                yield from self._run_waiting(part, waiting)
            waiting.append(np.array(item))
            if len(waiting) >= self._batch_size(part, item.shape).size:
                yield from self._run_waiting(part, waiting)
        whole = len(waiting) // SMALLEST_BATCH * SMALLEST_BATCH
        for rest in (waiting[:whole], waiting[whole:]):
            if rest:
                yield from self._run_waiting(part, rest)

    def _run_waiting(self, part: "_Part", waiting: list[NDArray[Any]]) -> Iterator[Outputs]:
        batch = np.stack(waiting)
        waiting.clear()
        start = time.perf_counter()
        outputs = self.run(batch, part.names)
        self._batch_size(part, batch.shape[1:]).note(len(batch), time.perf_counter() - start)
        for name, value in outputs.items():
            if value.shape[:1] != batch.shape[:1]:
                raise ModelError(
                    f"the tensor '{name}' of shape {value.shape} cannot be taken apart by picture"
                )
        for index in range(len(batch)):
            yield {name: value[index] for name, value in outputs.items()}

    def _batch_size(self, part: "_Part", shape: tuple[int, ...]) -> "_BatchSize":
        if shape not in part.batch_sizes:
            limit = self._batch or min(
                LARGEST_BATCH, max(1, self._memory // max(1, part.bytes_per_item(shape)))
            )
            part.batch_sizes[shape] = _BatchSize(limit, measured=not self._batch)
        return part.batch_sizes[shape]

    def _part(self, taps: Sequence[str]) -> "_Part":
        names = tuple(taps) or tuple(output.name for output in self.model.graph.outputs)
        if names not in self._parts:
            self._parts[names] = _Part(self.model, names, self._start)
        return self._parts[names]

    def _start(self, graph: Graph) -> Any:
        """An ONNX Runtime session for a graph, on the device that was asked for."""
        session = start(graph.skeleton, graph.files, self.model.name, self._asked, self._threads)
        self._providers = session.get_providers()
        return session


class _Part:
    """The sub-model that some tensors need, and its ONNX Runtime session, both made at their first use."""

    def __init__(self, model: Model, names: tuple[str, ...], start: Any) -> None:
        self.names = names
        self.batch_sizes: dict[tuple[int, ...], _BatchSize] = {}
        self._needs: dict[tuple[int, ...], int] = {}
        self._model = model
        self._input = model.graph.input
        computed = [name for name in names if name != self._input.name]
        self._graph = model.graph.extract(computed) if computed else None
        self._session = start(self._graph) if self._graph else None

    def run(self, batch: NDArray[Any]) -> Outputs:
        """Every tensor of `names` for exactly this batch."""
        if self._session is None:
            return {self._input.name: np.array(batch)}
        needed = len(batch) * self.bytes_per_item(batch.shape[1:])
        if needed > (free := available_memory()):
            raise ModelError(
                f"'{self._model.name}' needs {needed >> 20} MiB for activations of {len(batch)} picture(s), "
                f"each {batch.shape[1:]}; {free >> 20} MiB are free: take smaller pictures"
            )
        feed = batch.astype(self._input.dtype, copy=False)
        if self._input.dtype == np.uint8:
            feed = np.clip(np.rint(batch), 0, 255).astype(np.uint8)
        try:
            values = self._session.run(None, {self._input.name: np.ascontiguousarray(feed)})
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime failed on '{self._model.name}' with an input of shape {batch.shape}: "
                f"{one_sentence(error)}"
            ) from None
        outputs = dict(zip((output.name for output in self._session.get_outputs()), values, strict=True))
        outputs[self._input.name] = batch
        return {name: _as_float32(outputs[name]) for name in self.names}

    def bytes_per_item(self, shape: tuple[int, ...]) -> int:
        """Of the activations for one picture of this shape."""
        if self._graph is None:
            return 4 * math.prod(shape)
        if shape not in self._needs:
            height, width = shape[1:] if self._graph.layout == "nchw" else shape[:2]
            self._needs[shape] = measure(self._graph, height, width).bytes_per_item
        return self._needs[shape]


class _BatchSize:
    """The number of pictures per run: from SMALLEST_BATCH, doubled while that makes each a tenth cheaper."""

    def __init__(self, limit: int, measured: bool) -> None:
        self.size = min(SMALLEST_BATCH, limit) if measured else limit
        self._limit = limit
        self._settled = self.size == limit
        self._best = math.inf
        self._times: list[float] = []

    def note(self, count: int, seconds: float) -> None:
        """Learn from a run of `count` pictures."""
        if self._settled or count != self.size:
            return
        self._times.append(seconds / count)
        if len(self._times) < 2:  # the first run of a size pays for its allocations
            return
        fastest = min(self._times)
        self._times.clear()
        if fastest > 0.9 * self._best:
            self.size, self._settled = self.size // 2, True
        elif 2 * self.size > self._limit:
            self._settled = True
        else:
            self._best, self.size = fastest, 2 * self.size


def _as_float32(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
