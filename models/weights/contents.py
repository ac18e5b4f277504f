"""What a file of weights holds, and which of its arrays is which parameter of a network.

A file tells in one of three ways: Keras' HDF5 by the order of layers, others by Keras' names or by PyTorch's.
All of it goes by names and shapes; nothing is read here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from cnnkit.models.architecture import Parameter
from cnnkit.models.weights.filling import Family

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """An array in a file; `read` fetches it."""

    name: str
    shape: Shape
    dtype: str
    read: Callable[[], NDArray[Any]]


class Contents(Protocol):
    """The arrays of a file, and whose conventions they follow."""

    @property
    def family(self) -> Family: ...

    @property
    def arrays(self) -> Sequence[Stored]:
        """All that a network has to use."""

    def partners(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> dict[Parameter, Stored]:
        """The array of each parameter that has one, of whatever shape."""

    def shapes(self, parameter: Parameter) -> Sequence[Shape]:
        """Those that the array of this parameter may have."""

    def in_keras_layout(self, parameter: Parameter, array: NDArray[Any]) -> NDArray[Any]:
        """Such an array with the shape of the parameter."""


class _Keras:
    """Of Keras' files: the arrays are as the parameters have them."""

    family: Family = "keras"

    def shapes(self, parameter: Parameter) -> Sequence[Shape]:
        return [parameter.shape]

    def in_keras_layout(self, parameter: Parameter, array: NDArray[Any]) -> NDArray[Any]:
        return array


@dataclass(frozen=True)
class Layer:
    """A layer that has weights, its arrays in Keras' order, and its class in snake case if that is known."""

    name: str
    arrays: Sequence[Stored]
    kind: str = ""


@dataclass(frozen=True)
class KerasLayers(_Keras):
    """Layers in Keras' order: all of them or, where the classes are known, those of each class."""

    layers: Sequence[Layer]

    @property
    def arrays(self) -> Sequence[Stored]:
        return [array for layer in self.layers for array in layer.arrays]

    def partners(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> dict[Parameter, Stored]:
        """By the names of the layers when these are the network's; else by order, as Keras itself does."""
        network: dict[str, list[Parameter]] = {}
        for parameter in parameters:
            network.setdefault(parameter.layer, []).append(parameter)
        file = {layer.name: layer.arrays for layer in self.layers}
        if file.keys() != network.keys():
            file = self._by_order(network) or file
        return {
            parameter: array
            for name, wanted in network.items()
            for parameter, array in zip(wanted, file.get(name, ()), strict=False)
        }

    def _by_order(self, network: Mapping[str, Sequence[Parameter]]) -> dict[str, Sequence[Stored]]:
        """The arrays by the network's names of their layers, or nothing when the layers do not line up."""
        if all(layer.kind for layer in self.layers):
            file = dict(zip(_numbered(layer.kind for layer in self.layers), self.layers, strict=True))
            places = zip(network, _numbered(wanted[0].kind for wanted in network.values()), strict=True)
            return {name: file[place].arrays for name, place in places if place in file}
        if [len(layer.arrays) for layer in self.layers] != [len(wanted) for wanted in network.values()]:
            return {}
        return {name: layer.arrays for name, layer in zip(network, self.layers, strict=True)}


def _numbered(kinds: Iterable[str]) -> list[tuple[str, int]]:
    """Each with how often it was there before."""
    seen: Counter[str] = Counter()
    numbered = []
    for kind in kinds:
        numbered.append((kind, seen[kind]))
        seen[kind] += 1
    return numbered


@dataclass(frozen=True)
class KerasNames(_Keras):
    """Arrays called as the parameters: block1_conv1.kernel."""

    arrays: Sequence[Stored]

    def partners(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> dict[Parameter, Stored]:
        named = {array.name: array for array in self.arrays}
        return {parameter: named[parameter.name] for parameter in parameters if parameter.name in named}


TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""What PyTorch calls Keras' variables."""


@dataclass(frozen=True)
class TorchNames:
    """The arrays of a state dictionary of PyTorch, called by module and variable: features.0.weight."""

    arrays: Sequence[Stored]
    family: Family = "torch"

    def partners(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> dict[Parameter, Stored]:
        named = {array.name: array for array in self.arrays}
        found = {}
        for parameter in parameters:
            modules = torch.get(parameter.layer, ())
            module = next((module for module in modules if f"{module}.weight" in named), None)
            array = named.get(f"{module}.{TORCH.get(parameter.variable)}")
            if array:
                found[parameter] = array
        return found

    def shapes(self, parameter: Parameter) -> Sequence[Shape]:
        """Outputs first; a dense layer may be a convolution over its whole plane, as timm has it."""
        if parameter.kind != "dense" or len(parameter.shape) == 1:
            return [parameter.onnx_shape]
        inputs, outputs = parameter.shape
        return [(outputs, inputs), (outputs, *_plane(parameter))]

    def in_keras_layout(self, parameter: Parameter, array: NDArray[Any]) -> NDArray[Any]:
        if len(parameter.shape) == 1:
            return array
        if parameter.kind == "dense":
            array = array.reshape(-1, *_plane(parameter))
        return array.transpose(2, 3, 1, 0).reshape(parameter.shape)


def _plane(parameter: Parameter) -> Shape:
    """(channels, height, width) of what a dense layer takes, which PyTorch flattens in this order."""
    height, width, channels = parameter.flattened or (1, 1, parameter.shape[0])
    return channels, height, width


def by_name(arrays: Sequence[Stored]) -> KerasNames | TorchNames:
    """The arrays of a file that has nothing but their names. What PyTorch's modules count is left out."""
    kernels = "kernel", "depthwise_kernel", "pointwise_kernel", "gamma", "moving_mean"
    if any(array.name.rpartition(".")[2] in kernels for array in arrays):
        return KerasNames(arrays)
    return TorchNames([array for array in arrays if not array.name.endswith("num_batches_tracked")])
