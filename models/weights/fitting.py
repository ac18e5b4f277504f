"""Every parameter of a network gets one array of a file, and every array goes to one parameter."""

from collections.abc import Mapping, Sequence

from cnnkit import ModelError
from cnnkit.models.architecture import Parameter
from cnnkit.models.weights.contents import Contents, Shape, Stored

FLOATS = ("float16", "bfloat16", "float32", "float64")
SHOWN = 3
"""Lines about each kind of difference."""


def fit(
    contents: Contents, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]], file: str
) -> dict[Parameter, Stored]:
    """The array of each parameter. Raises ModelError, which lists the differences, unless all fit exactly."""
    partners = contents.partners(parameters, torch)
    missing = [parameter for parameter in parameters if parameter not in partners]
    used = set(partners.values())
    left = [array for array in contents.arrays if array not in used]
    other = {
        parameter: array
        for parameter, array in partners.items()
        if array.shape not in contents.shapes(parameter)
    }
    if missing or left or other:
        differences = {
            "missing": [f"{parameter.name} {_text(parameter.shape)}" for parameter in missing],
            "left over": [f"{array.name} {_text(array.shape)}" for array in left],
            "of another shape": [
                f"{parameter.name} is {_text(contents.shapes(parameter)[0])} in the network, "
                f"{array.name} {_text(array.shape)} in the file"
                for parameter, array in other.items()
            ],
        }
        counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in differences.items() if lines)
        lists = "".join(_list(kind, lines) for kind, lines in differences.items())
        raise ModelError(
            f"the weights in {file} are not those of this network: {counts}"
            f"{lists}{_hint(missing, left, other, parameters[-1])}"
        )
    for array in partners.values():
        if array.dtype not in FLOATS:
            raise ModelError(
                f"'{array.name}' in {file} has numbers of type {array.dtype}; cnnkit takes weights of "
                f"{', '.join(FLOATS[:-1])} and {FLOATS[-1]}"
            )
    return partners


def _list(title: str, lines: Sequence[str]) -> str:
    shown = lines if len(lines) <= SHOWN else [*lines[: SHOWN - 1], f"{len(lines) - SHOWN + 1} more"]
    return "".join(f"\n  {title}: {line}" for line in shown)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _hint(
    missing: Sequence[Parameter], left: Sequence[Stored], other: Mapping[Parameter, Stored], bias: Parameter
) -> str:
    """What the differences mean; `bias` is the network's last parameter, with a number for each class."""
    scores = bias in other and bias.kind == "dense" and len(other) == 2
    if scores and not missing and not left:
        classes = _text(other[bias].shape)
        return (
            f"\nThe file has {classes} classes; `cnnkit models export NETWORK --weights FILE --classes "
            f"{classes} -o NEW.onnx` makes the network for them."
        )
    if left and not missing and not other:
        return "\nThe file has more layers; if they are the dense ones, take the network with its top."
    if missing and not left and not other and all(parameter.kind == "dense" for parameter in missing):
        return "\nThe file has no dense layers; take the network without its top."
    return ""
