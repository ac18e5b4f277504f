"""Classes: where a network keeps their scores, which ones somebody means, the layer to explain them at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import UsageError, did_you_mean
from cnnkit.graphs.graph import Graph, Layer
from cnnkit.graphs.planes import Plane, planes

_REORDERS = {"Identity", "Cast", "Dropout", "Transpose", "Squeeze", "Unsqueeze"}
_PASSES_THROUGH = {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout"}
_ACTIVATIONS = {"Softmax", "LogSoftmax", "Sigmoid"}


@dataclass(frozen=True)
class Scores:
    """A tensor that holds one number per class; `softmax` says that a softmax is still to be taken."""

    tensor: str
    softmax: bool = False

    def of(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The scores (batch, classes) out of what a session returned for this tensor."""
        values = outputs[self.tensor]
        scores = values.reshape(len(values), -1).astype(np.float32, copy=False)
        if not self.softmax:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    def of_one(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The scores (classes,) out of what `Session.map` yields for one picture."""
        scores: NDArray[np.float32] = self.of({self.tensor: outputs[self.tensor][None]})[0]
        return scores


def logits(graph: Graph) -> Scores:
    """The scores under the final Softmax, LogSoftmax or Sigmoid; the output itself where there is none."""
    node = _final_activation(graph)
    return Scores(node.input[0] if node else graph.outputs[0].name)


def probabilities(graph: Graph) -> Scores:
    """The output when it is a Softmax or Sigmoid; else the softmax of the logits."""
    node = _final_activation(graph)
    if node and node.op_type != "LogSoftmax":
        return Scores(graph.outputs[0].name)
    return Scores(logits(graph).tensor, softmax=True)


def holds_scores(graph: Graph, tensor: str) -> bool:
    """Whether a tensor has one number per class: only activations stand between it and the output."""
    name = graph.outputs[0].name
    while name != tensor:
        node = graph.producers.get(name)
        if node is None or node.op_type not in _PASSES_THROUGH | _ACTIVATIONS:
            return False
        name = node.input[0]
    return True


def _final_activation(graph: Graph) -> Any:
    node = graph.producers.get(graph.outputs[0].name)
    while node and node.op_type in _PASSES_THROUGH:
        node = graph.producers.get(node.input[0])
    return node if node and node.op_type in _ACTIVATIONS else None


class Choice(NamedTuple):
    """A layer picked by a rule; `reason` is a sentence for people."""

    layer: Layer
    plane: Plane
    reason: str


def last_plane(graph: Graph, height: int | None = None, width: int | None = None) -> Choice:
    """The last layer before the scores whose output still has a plane larger than one pixel.

    That is where class activation maps are made: what it holds is as near to the classes as what still knows
    of places can be. Layers that only reorder what the one before computed do not count. Where no plane is
    larger, it is the last of one pixel. Raises UsageError for a network without any.
    """
    known = planes(graph, height, width)
    before = graph.extract([logits(graph).tensor]).producers
    layers = [
        layer
        for layer in graph.layers
        if layer.tensor in before and layer.tensor in known and layer.operator not in _REORDERS
    ]
    wide = [layer for layer in layers if known[layer.tensor].height * known[layer.tensor].width > 1]
    if not layers:
        raise UsageError("no layer of the network lies over the picture, so there is none to make a map at")
    layer = (wide or layers)[-1]
    plane = known[layer.tensor]
    reason = f"layer '{layer.name}': the last with a plane, {plane}"
    return Choice(layer, plane, reason if wide else f"{reason}; none is larger than one pixel")


def label_of(index: int, labels: Sequence[str]) -> str:
    """The label of a class, "class 281" for a network without labels."""
    return labels[index] if labels else f"class {index}"


def resolve_targets(text: str, labels: Sequence[str], scores: NDArray[Any]) -> list[int]:
    """The classes that a text means, given the scores (classes,) of a picture; each once, in the order asked.

    "top" is the class with the highest score, "top:5" the five highest; "281" an index; "tabby" a label, one
    of the comma-separated synonyms in a label, or the beginning of exactly one label, in any case; "all"
    every class; and several of these with commas.

    Raises UsageError when a part means no class or more than one.
    """
    if "," in text and len(whole := _labelled(text.strip(), labels)) == 1:
        return whole
    return list(
        dict.fromkeys(index for part in text.split(",") for index in _resolve(part.strip(), labels, scores))
    )


def _resolve(text: str, labels: Sequence[str], scores: NDArray[Any]) -> list[int]:
    word, _, count = text.lower().partition(":")
    if text.lower() == "all":
        return list(range(len(scores)))
    if word == "top" and (not count or count.isdecimal()):
        number = int(count or 1)
        if not 1 <= number <= len(scores):
            raise UsageError(f"the target '{text}' asks for {number} classes; the network has {len(scores)}")
        return [int(index) for index in np.argsort(-scores, kind="stable")[:number]]
    if text.isdecimal():
        if int(text) >= len(scores):
            raise UsageError(
                f"there is no class {text}: the network has {len(scores)}, from 0 to {len(scores) - 1}"
            )
        return [int(text)]
    if not labels:
        raise UsageError(
            f"the target '{text}' is no number, and the network has no labels; give them with --labels"
        )
    found = _labelled(text, labels)
    if not found:
        synonyms = (synonym for label in labels for synonym in [label, *_synonyms(label)])
        raise UsageError(
            f"no class is called '{text}'; the network has {len(labels)}, such as '{labels[0]}', and a "
            f"number names one by its index.{did_you_mean(text, synonyms)}"
        )
    if len(found) > 1:
        listed = ", ".join(f"{index} ({labels[index]})" for index in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise UsageError(
            f"'{text}' may be several classes: {listed}{more}; give the index or the whole label"
        )
    return found


def _labelled(text: str, labels: Sequence[str]) -> list[int]:
    """The classes whose label the text is; else has as a synonym; else begins."""
    word = text.casefold()
    for matches in (
        lambda label: label.casefold() == word,
        lambda label: word in (synonym.casefold() for synonym in _synonyms(label)),
        lambda label: bool(word) and label.casefold().startswith(word),
    ):
        if found := [index for index, label in enumerate(labels) if matches(label)]:
            return found
    return []


def _synonyms(label: str) -> list[str]:
    return [synonym.strip() for synonym in label.split(",")]
