"""Tests of an explanation on the network at hand: does it depend on the weights, and on the class?

After Adebayo et al. 2018, "Sanity checks for saliency maps", and Sixt et al. 2020 (the class): a map that
stays when the weights of the network are shuffled, or when another class is asked about, explains neither.
Similarity is Spearman's correlation of ranks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cnnkit import Context, Model
from cnnkit.plugins.explaining import Array, Question, short

ALIKE = 0.9
"""A correlation from which on two maps count as the same."""
STAGES = (1, 0.5, 1.0)
"""How many of the weighted layers are shuffled, from the top: one, half of them, all."""

Maps = Callable[[Question], Array]


def examine(
    question: Question, maps: Maps, context: Context, adds_up: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The verdicts on the best target's map, as data and as lines of text.

    `maps` makes the maps (targets, ...) of a question; `adds_up` is the completeness of an operation that
    has one: its figures with `holds` and `text`.
    """
    best = max(question.targets, key=lambda index: question.scores[index])
    map = maps(question.about(question.model, [best]))[0]
    data: dict[str, Any] = {}
    lines = []
    if adds_up is not None:
        data["completeness"] = {name: value for name, value in adds_up.items() if name != "text"}
        lines.append(f"check: completeness {'holds' if adds_up['holds'] else 'FAILS'}: {adds_up['text']}")

    stages = [
        (len(names), spearman(map, maps(question.about(shuffled(question.model, names, context), [best]))[0]))
        for names in context.progress(_from_the_top(question.model), len(STAGES), "check: shuffled layers")
    ]
    falls = all(abs(correlation) < ALIKE for _, correlation in stages)
    data["randomisation"] = {
        "passes": falls,
        "stages": [{"layers": count, "correlation": correlation} for count, correlation in stages],
    }
    figures = ", ".join(f"{count}: {correlation:.2f}" for count, correlation in stages)
    verdict = "depends on the weights" if falls else "HARDLY DEPENDS ON THE WEIGHTS"
    lines.append(f"check: the map {verdict}: correlation by layers shuffled from the top: {figures}")

    if len(question.scores) > 1:
        other = int(context.random.choice(np.delete(np.arange(len(question.scores)), best)))
        alike = spearman(map, maps(question.about(question.model, [other]))[0])
        differs = abs(alike) < ALIKE
        data["class"] = {
            "passes": differs,
            "other": other,
            "label": question.label(other),
            "correlation": alike,
        }
        verdict = "depends on the class" if differs else "HARDLY DEPENDS ON THE CLASS"
        lines.append(
            f"check: the map {verdict}: correlation {alike:.2f} with that of {short(question.label(other))}"
        )
    return data, lines


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The correlation of the ranks of two arrays, equal values sharing theirs; 0 where one is flat."""
    ranks = [_ranks(np.asarray(values, np.float64).ravel()) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    norms = np.prod([np.linalg.norm(values) for values in centred])
    return float(centred[0] @ centred[1] / norms) if norms else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)


def shuffled(model: Model, names: Sequence[str], context: Context) -> Model:
    """The network with each of these weights shuffled in itself, so that their sizes stay what they were."""
    proto = model.graph.proto
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor)
            mixed = context.random.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    return Model.of(proto, preprocessing=model.preprocessing, labels=model.labels, name=model.name)


def _from_the_top(model: Model) -> list[list[str]]:
    """The weights of the layers of each stage."""
    weights = {tensor.name for tensor in model.graph.skeleton.graph.initializer if len(tensor.dims) > 1}
    nodes = [model.graph.producers[layer.tensor] for layer in reversed(model.parts)]
    found = dict.fromkeys(name for node in nodes if (name := _weight(node, model, weights)))
    counts = [min(len(found), max(1, round(part * len(found)) if index else 1))
              for index, part in enumerate(STAGES)]  # fmt: skip
    return [list(found)[:count] for count in dict.fromkeys(counts)]


def _weight(node: onnx.NodeProto, model: Model, weights: set[str]) -> str | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    name: str = node.input[1]
    while name not in weights:
        maker = model.graph.producers.get(name)
        if maker is None or not maker.input:
            return None
        name = maker.input[0]
    return name
