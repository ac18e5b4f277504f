"""`TrainingSession`: gradients of a network on ONNX Runtime, and steps along them."""

import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from cnnkit.errors import ModelError, UsageError
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.model import Model
from cnnkit.graphs.optimizers import Optimizer
from cnnkit.graphs.rewrite import candidates, winograd
from cnnkit.graphs.training import Loss, training_graph
from cnnkit.images.files import write_atomically
from cnnkit.runtime.device import one_sentence, onnxruntime, providers, start
from cnnkit.runtime.tuning import worth_rewriting

log = logging.getLogger("cnnkit")

Feeds = Mapping[str, Any]
_RANDOM_STATE = "cnnkit.random_state"


class Gradients(NamedTuple):
    """What `TrainingSession.gradient` found.

    `losses` are the parts of the loss and their sum `total`; `gradients` belong to what was asked about;
    `taps` are the values of the tapped layers.
    """

    losses: dict[str, float]
    gradients: dict[str, NDArray[Any]]
    taps: dict[str, NDArray[Any]]


class TrainingSession:
    """A network, a loss, its gradients and the update of its parameters, in one graph on one device.

    `loss(builder, tap)` appends scalars to the graph and returns them by name; their sum is differentiated.
    `tap(layer)` is the tensor of a layer, `builder.op` appends nodes, `builder.input` declares what else the
    loss reads (targets, weights), which is then fed. `wrt` names what to differentiate with respect to:
    `input`, layers, weights, or weights by a pattern with `*`. Weights among them live on the device; with an
    `optimizer` the picture does too, if it is named. `taps` are layers whose values `gradient` returns too.

    `training` puts batch norms and dropouts in training mode; `seed` is for dropouts. `batch` is a fixed
    number of pictures, open by default; `size` is (height, width), the model's by default. `rules` are
    gradient rules for more operators. `rewrites` "measured" replaces convolutions by Winograd's form where
    that is clearly faster on this CPU, which takes seconds to find out, and where `max_memory` more bytes
    (default: a quarter of what is free) are enough for it.

    Raises ModelError where a gradient does not exist, UsageError for names that mean nothing, and
    DeviceError.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        wrt: Sequence[str],
        optimizer: Optimizer | None = None,
        *,
        taps: Sequence[str] = (),
        training: bool = False,
        batch: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        device: str = "auto",
        threads: int | None = None,
        rewrites: Literal["none", "measured"] = "none",
        max_memory: int | None = None,
        rules: Mapping[str, Rule] | None = None,
    ) -> None:
        self.model = model
        self.graph = training_graph(
            model,
            loss,
            wrt,
            optimizer,
            taps=taps,
            training=training,
            batch=batch,
            size=size,
            rules=rules,
        )
        self._random = np.random.default_rng(seed)
        self._device, self._threads = device, threads
        self._rewrites, self._max_memory = rewrites, max_memory
        self._runs: dict[str, _Run] = {}
        self._state: dict[str, Any] = {}
        self._gradients: dict[str, Any] = {}

    @property
    def parameters(self) -> Sequence[str]:
        """The names of the tensors that are differentiated with respect to and live in the session."""
        return list(self.graph.parameters.values())

    @property
    def state(self) -> Sequence[str]:
        """All that lives in the session: parameters, the optimizer's memory, running statistics."""
        return list(self.graph.state)

    def gradient(self, feeds: Feeds) -> Gradients:
        """The losses and the gradients for these pictures, with the parameters as they are.

        `feeds` hold the pictures (under `input` or the name of the network's input) and what the loss reads.
        Gradients have the shape and type of what they belong to. Raises UsageError for feeds that are missing
        or do not fit.
        """
        values = self._differentiate(feeds, {})
        return Gradients(
            {name: float(values[tensor]) for name, tensor in self.graph.losses.items()},
            {name: values[tensor] for name, tensor in self.graph.gradients.items()},
            {name: values[tensor] for name, tensor in self.graph.taps.items()},
        )

    def step(self, feeds: Feeds) -> dict[str, float]:
        """Move the parameters once, on the device; returns the losses before.

        `feeds` are as for `gradient`; a setting of the optimizer, such as `learning_rate`, may be among them.
        """
        graph = self.graph
        if not graph.updates:
            raise UsageError("this session has no optimizer, so it cannot step; make it with one")
        if not self._gradients:
            held = {graph.gradients[name]: graph.state[tensor] for name, tensor in graph.parameters.items()}
            held |= {after: graph.state[name] for name, after in graph.statistics.items()}
            self._gradients = {name: self._to_device(np.zeros_like(value)) for name, value in held.items()}
        values = self._differentiate(feeds, self._gradients)
        for name, after in graph.statistics.items():
            self._state[name], self._gradients[after] = self._gradients[after], self._state[name]
        update = self._run("update", graph.updates, given=graph.gradients.values())
        settings = {name: feeds.get(name, value) for name, value in graph.settings.items()}
        # Each update reads its own old value only before it writes the new one, so they share their place.
        update(
            {name: np.asarray(value, update.inputs[name]) for name, value in settings.items()},
            self._held(update) | {name: self._gradients[name] for name in graph.gradients.values()},
            {after: self._state[name] for name, after in graph.updates.items()},
        )
        return {name: float(values[tensor]) for name, tensor in graph.losses.items()}

    def read(self, name: str) -> NDArray[Any]:
        """The present value of a tensor of `state`, copied from the device."""
        name = self._known(name)
        held = self._state.get(name)
        return np.array(self.graph.state[name] if held is None else held.numpy())

    def write(self, name: str, value: Any) -> None:
        """Set a tensor of `state`. Raises UsageError when it has another shape."""
        name = self._known(name)
        first = self.graph.state[name]
        array = np.asarray(value, first.dtype)
        if array.shape != first.shape:
            raise UsageError(f"'{name}' has the shape {first.shape}; the value given has {array.shape}")
        self._state[name] = self._to_device(array)

    def save(self, path: str | Path) -> Path:
        """Write state and random state to an .npz file, from which `restore` goes on bit for bit."""
        random = json.dumps(self._random.bit_generator.state)
        content = io.BytesIO()
        arrays = {name: self.read(name) for name in self.state}
        np.savez(content, **arrays, **{_RANDOM_STATE: np.array(random)})  # type: ignore[arg-type]
        write_atomically(Path(path), content.getvalue())
        return Path(path)

    def restore(self, path: str | Path) -> None:
        """Take up what `save` wrote. Raises UsageError, changing nothing, when it is of another session."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            random = json.loads(str(arrays.pop(_RANDOM_STATE)))
        except FileNotFoundError:
            raise UsageError(f"there is no saved state {path}") from None
        except Exception as error:  # zipfile, numpy and json complain in many ways
            raise UsageError(f"{path} is no saved state of a training session: {error}") from None
        if unlike := arrays.keys() ^ self.graph.state.keys():
            raise UsageError(f"{path} was saved by another session: only one of them has '{min(unlike)}'")
        for name, array in arrays.items():
            if array.shape != self.graph.state[name].shape:
                raise UsageError(
                    f"{path} was saved by another session: its '{name}' has the shape {array.shape}, "
                    f"not {self.graph.state[name].shape}"
                )
        for name, array in arrays.items():
            self.write(name, array)
        self._random.bit_generator.state = random

    def trained(self) -> Model:
        """The network, as it was given, with the present weights and statistics in it."""
        proto = self.model.graph.proto
        for tensor in proto.graph.initializer:
            if tensor.name in self.graph.state:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.read(tensor.name), tensor.name))
        return Model.of(Graph.of(proto))

    def export(self, path: str | Path) -> Path:
        """Write forward, losses, gradients and update as one ordinary ONNX file. Raises OutputError.

        The state are inputs that may be left out: they have their present values as initializers.
        """
        graph = self.graph
        whole = graph.model(graph.losses, graph.gradients, graph.statistics, graph.updates)
        whole = Graph(whole, self.model.graph.files).proto
        fed = {value.name for value in whole.graph.input}
        whole.graph.initializer.extend(
            onnx.numpy_helper.from_array(self.read(name), name) for name in self.state if name in fed
        )
        onnx.checker.check_model(whole, full_check=True)
        write_atomically(Path(path), whole.SerializeToString())
        return Path(path)

    def _differentiate(self, feeds: Feeds, into: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Losses, gradients and next statistics; those named in `into` go there."""
        graph = self.graph
        run = self._run("gradient", graph.losses, graph.gradients, graph.taps, graph.statistics)
        return run(self._complete(feeds, run), self._held(run), into)

    def _run(self, kind: str, *outputs: Mapping[str, Any], given: Collection[str] = ()) -> "_Run":
        if kind not in self._runs:
            model = self.graph.model(*outputs, given=given)
            if self._rewrites == "measured" and not providers(self._device)[0].startswith("CUDA"):
                choice = worth_rewriting(candidates(model), self._threads, self._max_memory)
                log.info("%s", choice)
                model = winograd(model, choice.names)
            session = start(model, self.model.graph.files, self.model.name, self._device, self._threads)
            self._runs[kind] = _Run(session, self.model.name)
        return self._runs[kind]

    def _held(self, run: "_Run") -> dict[str, Any]:
        """The state that a run reads, on the device."""
        names = run.inputs.keys() & self.graph.state.keys()
        for name in names - self._state.keys():
            self._state[name] = self._to_device(self.graph.state[name])
        return {name: self._state[name] for name in names}

    def _to_device(self, array: NDArray[Any]) -> Any:
        kind = "cuda" if providers(self._device)[0].startswith("CUDA") else "cpu"
        own = np.array(array, order="C")  # on a CPU the value lies in the array itself, and is written to
        return onnxruntime().OrtValue.ortvalue_from_numpy(own, kind)

    def _complete(self, feeds: Feeds, run: "_Run") -> dict[str, NDArray[Any]]:
        """The feeds as arrays of the right types, with settings and dropout masks."""
        picture = self.model.graph.input.name
        given = {picture if name == "input" else name: value for name, value in feeds.items()}
        arrays: dict[str, NDArray[Any]] = {}
        batch = len(given[picture]) if picture in given else 1
        for name, (dropped, ratio) in self.graph.masks.items():
            given.setdefault(name, self._random.random(dropped.shape_for(batch)) >= ratio)
        for name, value in {**self.graph.settings, **given}.items():
            if name in run.inputs:
                arrays[name] = np.asarray(value, run.inputs[name], order="C")
        wanted = [name for name in run.inputs if name not in self.graph.state]
        missing = [name for name in wanted if name not in arrays]
        unknown = given.keys() - run.inputs.keys() - self.graph.settings.keys() - self.graph.masks.keys()
        if missing or unknown - {picture}:
            raise UsageError(
                f"this session is fed {', '.join(wanted)}; "
                + (f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(sorted(unknown))}")
            )
        return arrays

    def _known(self, name: str) -> str:
        """The name of a tensor of the state; `input` is the picture."""
        name = self.model.graph.input.name if name == "input" else name
        if name not in self.graph.state:
            raise UsageError(f"the session holds no '{name}'; it holds {', '.join(self.state) or 'nothing'}")
        return name


class _Run:
    """An ONNX Runtime session whose state is bound to where it lies."""

    def __init__(self, session: Any, name: str) -> None:
        self.session = session
        self.name = name
        self.device = "cuda" if session.get_providers()[0].startswith("CUDA") else "cpu"
        self.inputs = {value.name: _DTYPES[value.type] for value in session.get_inputs()}
        self.outputs = [value.name for value in session.get_outputs()]

    def __call__(
        self, feeds: Mapping[str, NDArray[Any]], held: Mapping[str, Any], into: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """Run with fed arrays and held tensors; outputs named in `into` go there, the others are returned."""
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        fetched = [name for name in self.outputs if name not in into]
        for name in self.outputs:
            if name in into:
                binding.bind_ortvalue_output(name, into[name])
            else:
                binding.bind_output(name)
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ModelError(
                f"ONNX Runtime failed on '{self.name}' with {shapes}: {one_sentence(error)}"
            ) from None
        values = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {name: values[name].numpy() for name in fetched}


_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
