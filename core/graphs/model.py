"""`Model`: a graph, and what one must know to feed it a picture and to read its answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from cnnkit.errors import CnnkitError, ModelError, UsageError
from cnnkit.graphs import targets
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.guessing import guess
from cnnkit.graphs.layers import LAYERS_KEY, Layer
from cnnkit.graphs.measure import infer_shapes
from cnnkit.graphs.saving import serialised
from cnnkit.graphs.tensors import Shape
from cnnkit.images.files import write_atomically
from cnnkit.images.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Model:
    """A network that takes a picture.

    `labels` are empty when nobody gave any. `origin` says where its weights come from, `training` how they
    were trained, JSON-able, `source` which file it was read from. `assumptions` are sentences for the user:
    what was assumed because the file does not say it.
    """

    graph: Graph
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    name: str = "model"
    licence: str = ""
    origin: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None
    assumptions: tuple[str, ...] = ()

    @staticmethod
    def load(
        path: str | Path,
        *,
        preprocess: str | None = None,
        fit: str | None = None,
        filter: str | None = None,
        labels: str | Path | None = None,
        size: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> "Model":
        """Read an ONNX file; its metadata say what the arguments leave open, and `assumptions` the rest.

        `preprocess` is one of the presets of `Preprocessing`; `labels` a text file with a line per class, or
        JSON: a list, or {index: name} or {index: [identifier, name]}; `size` is (height, width) of the
        network's input, for graphs that leave it open.

        Raises ModelError when the file is unfit and UsageError when an argument is.
        """
        path = Path(path)
        graph = Graph.load(path)
        return _assemble(graph, preprocess, fit, filter, Path(labels) if labels else None, size, name, path)

    @staticmethod
    def of(
        proto: onnx.ModelProto | Graph,
        *,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] = (),
        name: str | None = None,
        licence: str = "",
    ) -> "Model":
        """A model in memory; what is not given comes from its metadata, as in `load`."""
        graph = proto if isinstance(proto, Graph) else Graph.of(proto)
        model = _assemble(graph, name=name)
        if preprocessing:
            model = replace(model, preprocessing=_fitted(preprocessing, graph, None), assumptions=())
        if labels:
            model = replace(model, labels=_counted(tuple(labels), model, "the labels"))
        return replace(model, licence=licence or model.licence)

    def adjusted(
        self,
        *,
        preprocess: str | None = None,
        fit: str | None = None,
        filter: str | None = None,
        labels: str | Path | None = None,
        size: tuple[int, int] | None = None,
    ) -> "Model":
        """The network with what a person says otherwise; arguments as in `load`. Raises UsageError."""
        chosen = _chosen(self.preprocessing, self.graph, preprocess, fit, filter, size)
        model = replace(self, preprocessing=chosen)
        if labels:
            model = replace(model, labels=_counted(_read_labels(Path(labels)), model, str(labels)))
        return model

    def save(self, path: str | Path) -> Path:
        """Write an ONNX file that says everything that `load` wants to know. Raises OutputError."""
        write_atomically(Path(path), self.serialised())
        return Path(path)

    def serialised(self) -> Iterator[bytes | memoryview]:
        """The ONNX file that `save` writes, in pieces, of which one at a time is in memory."""
        skeleton = self.graph.skeleton
        metadata = {entry.key: entry.value for entry in skeleton.metadata_props} | self.metadata
        metadata[LAYERS_KEY] = json.dumps([[layer.name, layer.tensor] for layer in self.layers])
        return serialised(skeleton, self.graph.files, metadata)

    @property
    def metadata(self) -> dict[str, str]:
        """What an ONNX file says of the network beside its graph."""
        told = {"cnnkit.training": json.dumps(self.training)} if self.training else {}
        return told | {
            "cnnkit.name": json.dumps(self.name),
            "cnnkit.licence": json.dumps(self.licence),
            "cnnkit.origin": json.dumps(self.origin),
            "cnnkit.labels": json.dumps(self.labels),
            "cnnkit.preprocessing": json.dumps(self.preprocessing.to_json()),
        }

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.graph.layers

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Every node that carries the picture on: the layers, and the nodes inside of them."""
        return self.graph.parts

    def find(self, patterns: str | Sequence[str]) -> tuple[Layer, ...]:
        """The layers that the patterns name; see `Graph.find`."""
        return self.graph.find(patterns)

    @property
    def sha256(self) -> str:
        return self.graph.sha256

    @cached_property
    def classes(self) -> int:
        """The number of classes. Raises ModelError when the network is no classifier."""
        shape = self._output_shape
        items = [size for size in shape[1:] if size != 1]
        if len(items) > 1:
            sizes = ", ".join("?" if size is None else str(size) for size in shape)
            raise ModelError(
                f"the network '{self.name}' is no classifier: its output '{self.graph.outputs[0].name}' has "
                f"shape ({sizes}), not one number per class"
            )
        count = items[0] if items else 1
        if count is None and not self.labels:
            raise ModelError(f"the network '{self.name}' does not say how many classes it has; give --labels")
        return count or len(self.labels)

    @cached_property
    def logits(self) -> targets.Scores:
        """Where the scores before the softmax are. Raises ModelError when the network is no classifier."""
        return targets.logits(self.graph) if self.classes else targets.Scores("")

    @cached_property
    def probabilities(self) -> targets.Scores:
        """Where the probabilities are. Raises ModelError when the network is no classifier."""
        return targets.probabilities(self.graph) if self.classes else targets.Scores("")

    @cached_property
    def _output_shape(self) -> Shape:
        """Of the first output, as inferred, else as declared."""
        output = self.graph.outputs[0]
        inferred = infer_shapes(self.graph, self.preprocessing.height, self.preprocessing.width)
        declared = tuple(size if isinstance(size, int) else None for size in output.shape)
        shape = inferred[output.name].shape or declared
        if len(declared) != len(shape):
            return shape
        return tuple(size or said for size, said in zip(shape, declared, strict=True))


def _assemble(
    graph: Graph,
    preprocess: str | None = None,
    fit: str | None = None,
    filter: str | None = None,
    label_file: Path | None = None,
    size: tuple[int, int] | None = None,
    name: str | None = None,
    source: Path | None = None,
) -> Model:
    metadata = _metadata(graph)
    assumptions = []
    if "preprocessing" in metadata:
        chosen = _read_preprocessing(metadata["preprocessing"])
    else:
        chosen, assumed = guess(graph)
        if not preprocess:
            assumptions.append(assumed)
        if not fit and None not in graph.size:
            assumptions.append(
                "fit is not in the file: assumed 'squash' (the whole picture); say --fit otherwise"
            )
    chosen = _chosen(chosen, graph, preprocess, fit, filter, size)
    if None in (chosen.height, chosen.width):
        assumptions.append("no input size is fixed: each picture keeps its own; say --input-size otherwise")
    model = Model(
        graph,
        chosen,
        name=name or str(metadata.get("name") or (source.stem if source else "model")),
        licence=str(metadata.get("licence", "")),
        origin=str(metadata.get("origin", "")),
        training=_training(metadata.get("training", {})),
        source=source,
        assumptions=tuple(assumptions),
    )
    if label_file:
        return replace(model, labels=_counted(_read_labels(label_file), model, str(label_file)))
    labels = metadata.get("labels") or []
    if not isinstance(labels, list):
        raise ModelError("the metadata 'cnnkit.labels' of the model are no list")
    return (
        replace(model, labels=_counted(tuple(map(str, labels)), model, "its metadata", ModelError))
        if labels
        else model
    )


def _metadata(graph: Graph) -> dict[str, Any]:
    found = {}
    for entry in graph.skeleton.metadata_props:
        if entry.key.startswith("cnnkit."):
            try:
                found[entry.key.removeprefix("cnnkit.")] = json.loads(entry.value)
            except (ValueError, RecursionError):
                raise ModelError(f"the metadata '{entry.key}' of the model are damaged: no JSON") from None
    return found


def _training(values: Any) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise ModelError("the metadata 'cnnkit.training' of the model are damaged: no object")
    return values


def _read_preprocessing(values: Any) -> Preprocessing:
    try:
        return Preprocessing.from_json(dict(values))
    except (UsageError, TypeError, ValueError) as error:
        raise ModelError(f"the metadata 'cnnkit.preprocessing' of the model are damaged: {error}") from None


def _grey(graph: Graph) -> dict[str, Any]:
    return {"channels": "grey"} if graph.channels == 1 else {}


def _chosen(
    before: Preprocessing,
    graph: Graph,
    preprocess: str | None,
    fit: str | None,
    filter: str | None,
    size: tuple[int, int] | None,
) -> Preprocessing:
    """The preprocessing `before`, but for what is given."""
    chosen = before
    if preprocess:
        values = Preprocessing.preset(preprocess, **_grey(graph))
        chosen = replace(
            values, height=before.height, width=before.width, fit=before.fit, filter=before.filter
        )
    given: dict[str, Any] = {"fit": fit, "filter": filter}
    chosen = replace(chosen, **{key: value for key, value in given.items() if value})
    return _fitted(chosen, graph, size)


def _fitted(chosen: Preprocessing, graph: Graph, size: tuple[int, int] | None) -> Preprocessing:
    """The preprocessing with the layout and the size that the graph demands."""
    if (chosen.channels == "grey") != (graph.channels == 1):
        raise ModelError(
            f"the preprocessing is {chosen.channels}, but the network takes {graph.channels} channel(s)"
        )
    asked = size or (chosen.height, chosen.width)
    for fixed, wanted, axis in zip(graph.size, size or (None, None), ("height", "width"), strict=True):
        if fixed and wanted and fixed != wanted:
            raise UsageError(f"the network's input has a fixed {axis} of {fixed}, not {wanted}")
    height, width = (fixed or wanted for fixed, wanted in zip(graph.size, asked, strict=True))
    return replace(chosen, height=height, width=width, layout=graph.layout)


def _counted(
    labels: tuple[str, ...], model: Model, origin: str, blame: type[CnnkitError] = UsageError
) -> tuple[str, ...]:
    if len(labels) != model.classes:
        raise blame(f"{origin} hold {len(labels)} labels, but the network has {model.classes} classes")
    return labels


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"there is no label file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the label file {path} cannot be read: {error}") from None
    if not text.lstrip().startswith(("{", "[")):
        return tuple(text.rstrip().splitlines())
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(index)] for index in range(len(found))]
        return tuple(str(entry[-1] if isinstance(entry, list) else entry) for entry in found)
    except (ValueError, KeyError, IndexError, RecursionError):
        raise UsageError(
            f"the label file {path} is neither a list of labels nor an object with the keys 0, 1, 2, …"
        ) from None
