"""`TrainingSession`: gradients of a network on ONNX Runtime, and steps along them."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
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
_STATE, _RANDOM_STATE = "state/", "random_state"  # names in a saved file


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
    (default: a quarter of what is free) are enough for it. Names, such as those that another session found
    (`rewritten`), are rewritten without measuring, where there are such: that repeats results bit for bit.

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
        rewrites: Literal["none", "measured"] | Sequence[str] = "none",
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
        if isinstance(rewrites, str) and rewrites not in ("none", "measured"):
            raise UsageError(f"rewrites are 'none' or 'measured', not '{rewrites}'")
        providers(device)  # refuses a device that is not there
        self.random = np.random.default_rng(seed)
        """What dropouts draw from."""
        self.tapped: dict[str, NDArray[Any]] = {}
        """The values of the tapped layers at the last step."""
        self._device, self._threads = device, threads
        self._rewrites, self._max_memory = rewrites, max_memory
        self._state: dict[str, Any] = {}
        self._gradients: dict[str, Any] = {}
        self._spare: dict[str, Any] = {}

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
        update = self._update_run
        settings = {
            name: _as_fed(name, feeds.get(name, value), update.inputs[name])
            for name, value in graph.settings.items()
            if name in update.inputs
        }
        if vectors := [name for name, value in settings.items() if value.shape]:
            raise UsageError(f"'{vectors[0]}' is one number, not an array of {settings[vectors[0]].shape}")
        if not self._gradients:
            held = {graph.gradients[name]: graph.state[tensor] for name, tensor in graph.parameters.items()}
            held |= {after: graph.state[name] for name, after in graph.statistics.items()}
            self._gradients = {name: self._to_device(np.zeros_like(value)) for name, value in held.items()}
            apart = graph.updates.keys() - graph.overwritable
            self._spare = {name: self._to_device(np.zeros_like(graph.state[name])) for name in apart}
        values = self._differentiate(feeds, self._gradients)
        for name in graph.updates:
            self._held_one(name)
        update(
            settings,
            self._held(update)
            | {g: self._gradients[g] for g in graph.gradients.values() if g in update.inputs},
            {after: self._spare.get(name, self._state[name]) for name, after in graph.updates.items()},
        )
        for name in self._spare:
            self._state[name], self._spare[name] = self._spare[name], self._state[name]
        for name, after in graph.statistics.items():
            self._state[name], self._gradients[after] = self._gradients[after], self._state[name]
        self.tapped = {name: values[tensor] for name, tensor in graph.taps.items()}
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
        array = _as_fed(name, value, first.dtype)
        if array.shape != first.shape:
            raise UsageError(f"'{name}' has the shape {first.shape}; the value given has {array.shape}")
        self._state[name] = self._to_device(array)

    def save(self, path: str | Path) -> Path:
        """Write state and random state to an .npz file, from which `restore` goes on bit for bit."""
        random = json.dumps(self.random.bit_generator.state)
        content = io.BytesIO()
        arrays = {f"{_STATE}{name}": self.read(name) for name in self.state}
        np.savez(content, **arrays, **{_RANDOM_STATE: np.array(random)})  # type: ignore[arg-type]
        write_atomically(Path(path), content.getvalue())
        return Path(path)

    def restore(self, path: str | Path) -> None:
        """Take up what `save` wrote. Raises UsageError, changing nothing, when it is of another session."""
        random = np.random.default_rng()
        try:
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            random.bit_generator.state = json.loads(str(arrays.pop(_RANDOM_STATE)))
        except FileNotFoundError:
            raise UsageError(f"there is no saved state {path}") from None
        except Exception as error:  # zipfile, numpy and json complain in many ways
            told = " ".join(str(error).split())
            raise UsageError(f"{path} is no saved state of a training session: {told}") from None
        found = {name.removeprefix(_STATE): array for name, array in arrays.items()}
        if unlike := found.keys() ^ self.graph.state.keys():
            raise UsageError(f"{path} was saved by another session: only one of them has '{min(unlike)}'")
        for name, array in found.items():
            first = self.graph.state[name]
            if (array.shape, array.dtype) != (first.shape, first.dtype):
                raise UsageError(
                    f"{path} was saved by another session: its '{name}' is {array.dtype} of shape "
                    f"{array.shape}, not {first.dtype} of {first.shape}"
                )
        for name, array in found.items():
            self.write(name, array)
        self.random = random

    def trained(self, slot: str = "") -> Model:
        """The network, as it was given, with the present weights and statistics in it.

        `slot` names what an optimizer remembers in place of a weight: "average" of `Averaged`.
        """
        proto = self.model.graph.proto
        for tensor in proto.graph.initializer:
            held = f"{tensor.name}/{slot}" if slot and tensor.name in self.parameters else tensor.name
            if held in self.graph.state:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.read(held), tensor.name))
        return replace(self.model, graph=Graph.of(proto))

    def export(self, path: str | Path) -> Path:
        """Write forward, losses, gradients and update as one ordinary ONNX file. Raises OutputError.

        The state are inputs that may be left out: they have their present values as initializers. Settings,
        what the loss reads, and the masks of dropouts are inputs like the picture.
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

    @cached_property
    def rewritten(self) -> tuple[str, ...]:
        """The convolutions that are computed in Winograd's form; found out at the first call."""
        if not isinstance(self._rewrites, str):
            known = {candidate.name for candidate in candidates(self.graph.gradient_model)}
            return tuple(name for name in self._rewrites if name in known)
        if self._rewrites == "none" or providers(self._device)[0].startswith("CUDA"):
            return ()
        choice = worth_rewriting(candidates(self.graph.gradient_model), self._threads, self._max_memory)
        log.info("%s", choice)
        return choice.names

    @cached_property
    def _gradient_run(self) -> "_Run":
        """Losses, gradients, taps and next statistics."""
        model = self.graph.gradient_model
        return self._started(winograd(model, self.rewritten) if self.rewritten else model)

    @cached_property
    def _update_run(self) -> "_Run":
        return self._started(self.graph.update_model)

    def _started(self, model: onnx.ModelProto) -> "_Run":
        files, name = self.model.graph.files, self.model.name
        return _Run(start(model, files, name, self._device, self._threads), name)

    def _differentiate(self, feeds: Feeds, into: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Everything of the gradient run; what is named in `into` goes there."""
        run = self._gradient_run
        return run(self._complete(feeds, run), self._held(run), into)

    def _held(self, run: "_Run") -> dict[str, Any]:
        """The state that a run reads, on the device."""
        return {name: self._held_one(name) for name in run.inputs.keys() & self.graph.state.keys()}

    def _held_one(self, name: str) -> Any:
        if name not in self._state:
            self._state[name] = self._to_device(self.graph.state[name])
        return self._state[name]

    def _to_device(self, array: NDArray[Any]) -> Any:
        own = np.array(array, order="C")  # on a CPU the value lies in the array itself, and is written to
        return onnxruntime().OrtValue.ortvalue_from_numpy(own, self._gradient_run.device)

    def _complete(self, feeds: Feeds, run: "_Run") -> dict[str, NDArray[Any]]:
        """The feeds as arrays of the right types, with the masks of dropouts."""
        graph, picture = self.graph, self.model.graph.input.name
        given = {picture if name == "input" else name: value for name, value in feeds.items()}
        if inside := sorted(given.keys() & graph.state.keys()):
            raise UsageError(f"'{inside[0]}' lives in the session and is not fed; set it with `write`")
        wanted = [name for name in run.inputs if name not in graph.state and name not in graph.masks]
        missing = [name for name in wanted if name not in given]
        unknown = sorted(given.keys() - {*wanted, *graph.settings, *graph.masks, picture})
        if missing or unknown:
            problem = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
            raise UsageError(f"this session is fed {', '.join(wanted) or 'nothing'}; {problem}")
        arrays = {
            name: _as_fed(name, value, run.inputs[name])
            for name, value in given.items()
            if name in run.inputs
        }
        batch = len(arrays[picture]) if picture in arrays and arrays[picture].ndim else 1
        for name, (dropped, ratio) in graph.masks.items():
            if name in run.inputs and name not in arrays:
                arrays[name] = self.random.random(dropped.shape_for(batch)) >= ratio
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
        self.inputs = {value.name: _dtype(value.type) for value in session.get_inputs()}
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


_DTYPES = {"float": np.float32, "float16": np.float16, "double": np.float64, "bool": np.bool_}


def _dtype(kind: str) -> np.dtype[Any]:
    """numpy's name for "tensor(int64)" and the like."""
    word = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype(_DTYPES.get(word, word))


def _as_fed(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """A value in the type that the graph takes. Raises UsageError where that would lose something."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"'{name}' is no array: {error}") from None
    wanted = np.dtype(dtype)
    if wanted == np.uint8 and array.dtype.kind == "f":
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    elif not np.can_cast(array.dtype, wanted, "same_kind"):
        raise UsageError(f"'{name}' takes {wanted}; what was given is {array.dtype}")
    return np.asarray(array, wanted, order="C")
