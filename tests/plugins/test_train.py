"""Training as a user meets it: what comes out, what stays as it was, what is said of odd folders."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pictured_classes import CLASSES, pictured_classes
from PIL import Image as pillow
from said import Said
from small_network import small_network
from typer.testing import CliRunner

import cnnkit
from cnnkit import Host, Job, Model, ModelError, ModelSpec, Result, Session, Settings, UsageError
from cnnkit.cli.main import app
from cnnkit.host.context import LogReporter
from cnnkit.host.delivery import deliver
from cnnkit.models.mini_xception import mini_xception
from cnnkit.models.mobilenet_v2 import mobilenet_v2
from cnnkit.models.small_vgg import untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictured_classes(tmp_path_factory.mktemp("data") / "things")


def at(model: Model, height: int, width: int) -> Model:
    return replace(model, preprocessing=replace(model.preprocessing, height=height, width=width))


@pytest.fixture(scope="module")
def base() -> Model:
    return at(small_network(), 24, 24)


def trained(folder: Path, model: Model, **options: Any) -> tuple[Result, Model]:
    result = cnnkit.run("train", folder, model=model, host=Host(), **options)
    return result, Model.of(onnx.load_from_string(result.files["onnx"]))


def weights(model: Model) -> dict[str, bytes]:
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).tobytes()
        for tensor in model.graph.proto.graph.initializer
    }


def history(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.files["history.csv"].decode())))


def test_a_head_on_frozen_features(folder: Path, base: Model) -> None:
    result, model = trained(folder, base, epochs=60, rate=0.1)
    assert model.labels == CLASSES
    assert result.data["validation_accuracy"] == 1.0
    rows = history(result)
    assert len(rows) == 60 and float(rows[-1]["loss"]) < 0.3 * float(rows[0]["loss"])
    assert result.data["pictures"] == 20 and result.data["validated_with"] == 4
    assert [row["trainable"] for row in result.data["weights"]] == [0, 0, 8 * 3 + 3]
    split = list(csv.DictReader(io.StringIO(result.files["split.csv"].decode())))
    train, validation = cnnkit.Dataset.index(folder).split(0.2, 0)
    assert [row["file"] for row in split] == [*train.files, *validation.files]
    assert result.files["curves.png"].startswith(b"\x89PNG")
    assert result.pictures.keys() == {"pictures"}
    sure = cnnkit.run("classify", folder / "red" / "0.png", model=model, host=Host())
    assert sure.data["classes"][0]["label"] == "red"


@pytest.mark.parametrize(
    "build, size", [(mini_xception, 24), pytest.param(mobilenet_v2, 32, marks=pytest.mark.slow)]
)
def test_the_base_stays_bit_for_bit(folder: Path, build: Any, size: int) -> None:
    """With batch norms inside, whether features are kept or pictures augmented; and its statistics too."""
    model = build("random:0", size=(size, size))
    before = weights(model)
    for more in ({}, {"flip": True}):
        _, after = trained(folder, model, epochs=1, **more)
        now = weights(after)
        kept = {name for name in before.keys() & now.keys() if not name.startswith("predictions")}
        assert len(kept) > 30 and all(now[name] == before[name] for name in kept)


@pytest.mark.slow
def test_fine_tuning_moves_weights_and_no_statistics(folder: Path) -> None:
    model = mini_xception("random:0", size=(24, 24))
    before = weights(model)
    _, after = trained(folder, model, way="fine-tuned", head_epochs=1, epochs=1, rate=1e-3)
    now = weights(after)
    changed = {name for name in before.keys() & now.keys() if before[name] != now[name]}
    assert not any("moving" in name for name in changed)
    assert {name for name in before if "moving" not in name and "conv2d_7" not in name} <= changed
    result, after = trained(
        folder, model, way="fine-tuned", head_epochs=0, epochs=1, rate=1e-3, from_layer="separable_conv2d_8"
    )
    changed = {name for name in before if name in (now := weights(after)) and before[name] != now[name]}
    assert changed and all(
        name.split(".")[0]
        in ("separable_conv2d_8", "batch_normalization_14", "conv2d_6", "batch_normalization_12")
        for name in changed
    )
    assert [row["phase"] for row in history(result)] == ["fine-tuned"]


@pytest.mark.slow
def test_from_scratch_batch_norms_learn_and_fold(folder: Path) -> None:
    options: dict[str, Any] = {"way": "scratch", "epochs": 2, "flip": True, "mixup": 0.2, "average": 0.9}
    result, plain = trained(folder, at(untrained(), 32, 32), **options)
    again, folded = trained(folder, at(untrained(), 32, 32), fold=True, **options)
    assert [row["loss"] for row in history(result)] == [row["loss"] for row in history(again)]
    moved = weights(plain)
    assert all(
        moved[name] != value
        for name, value in weights(at(untrained(), 32, 32)).items()
        if "predictions" not in name
    )
    operators = {node.op_type for node in folded.graph.proto.graph.node}
    assert "BatchNormalization" not in operators and folded.layers[1].name == "block1_conv1"
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    (one,), (other,) = (Session(model).run(x).values() for model in (plain, folded))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert result.pictures.keys() == {"pictures", "augmented"}


def test_the_file_says_how_it_was_made(folder: Path, base: Model, tmp_path: Path) -> None:
    _, model = trained(folder, base, epochs=2, smoothing=0.1)
    assert model.training["pictures"] == 20 and len(model.training["epochs"]) == 2
    assert model.training["options"]["smoothing"] == 0.1 and model.training["seed"] == 0
    assert model.preprocessing == base.preprocessing
    assert str(folder.parent) not in json.dumps(model.training)
    model.save(tmp_path / "again.onnx")
    assert Model.load(tmp_path / "again.onnx").training == model.training


def test_a_network_goes_on_learning(folder: Path, base: Model) -> None:
    """One that knows these classes keeps its head."""
    _, first = trained(folder, base, epochs=30, rate=0.1)
    result, _ = trained(folder, first, way="fine-tuned", epochs=1, rate=1e-6)
    assert [row["phase"] for row in history(result)] == ["fine-tuned"]
    assert result.data["validation_accuracy"] == 1.0
    result, _ = trained(folder, first, way="scratch", epochs=1, rate=1e-6, schedule="constant")
    assert result.data["validation_accuracy"] == 1.0


def test_a_head_from_elsewhere_is_replaced(folder: Path, base: Model) -> None:
    """A network that knows these classes, but does not end as `with_head` has it."""
    for way in ("frozen", "scratch"):
        result, model = trained(folder, replace(base, labels=CLASSES), way=way, epochs=1)
        assert model.labels == CLASSES and result.data["weights"][-1]["layer"] == "predictions"


def test_a_layer_is_looked_for_before_anything_is_trained(folder: Path, base: Model) -> None:
    with pytest.raises(UsageError, match="no layer is called 'konv'"):
        said(folder, base, way="fine-tuned", from_layer="konv", heard=(heard := []))
    assert not heard
    with pytest.raises(UsageError, match="--from-layer says what is fine-tuned, and --way is frozen"):
        trained(folder, base, from_layer="two")


def test_a_network_that_takes_one_picture(folder: Path, base: Model) -> None:
    proto = onnx.ModelProto.FromString(base.graph.proto.SerializeToString())
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    single = Model.of(proto, preprocessing=base.preprocessing, name="single")
    assert trained(folder, single, epochs=1)[0].data["epochs"] == 1
    with pytest.raises(ModelError, match=r"takes exactly 1 picture\(s\) at a time: say --batch 1"):
        trained(folder, single, way="scratch", epochs=1)
    assert trained(folder, single, way="scratch", epochs=1, settings=Settings(batch=1))[0].data["epochs"] == 1


def test_early_stopping_and_seeds(folder: Path, base: Model) -> None:
    stopped, _ = trained(folder, base, epochs=50, patience=1, optimizer="sgd", rate=30.0)
    assert stopped.data["stopped"] == "no lower validation loss in 1 epochs" and len(history(stopped)) < 50
    one, other, again = (trained(folder, base, epochs=2, seed=seed)[0] for seed in (1, 2, 1))
    assert one.files["split.csv"] == again.files["split.csv"] != other.files["split.csv"]
    losses = [[row["loss"] for row in history(result)] for result in (one, other, again)]
    assert losses[0] == losses[2] != losses[1]


def test_rare_classes_can_count_more(folder: Path, base: Model) -> None:
    """Weights N / (classes · pictures), so that the weighted loss of equal logits is log(classes)."""
    even, _ = trained(folder, base, epochs=1, rate=1e-12, class_weights="none")
    weighted, _ = trained(folder, base, epochs=1, rate=1e-12, class_weights="balanced")
    assert float(history(even)[0]["loss"]) != float(history(weighted)[0]["loss"])


def test_runs_in_one_figure(folder: Path, base: Model, tmp_path: Path) -> None:
    result, _ = trained(folder, base, epochs=2)
    (tmp_path / "a.history.csv").write_bytes(result.files["history.csv"])
    both, _ = trained(folder, base, epochs=3, beside=[tmp_path / "a.history.csv"])
    assert len(both.files["curves.png"]) > len(result.files["curves.png"])
    for text in ("a,b\n1,2\n", "epoch,phase\n", ""):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(UsageError, match=r"b\.csv is no history.csv of a training"):
            trained(folder, base, epochs=1, beside=[tmp_path / "b.csv"])


# Odd folders


def said(folder: Path, model: Model, heard: list[str] | None = None, **options: Any) -> list[str]:
    listener = Said()
    listener.lines = listener.lines if heard is None else heard
    cnnkit.run("train", folder, model=model, host=Host(), reporter=listener, epochs=1, **options)
    return listener.lines


def test_another_split_has_been_seen_before(folder: Path, base: Model) -> None:
    """Where a training goes on from another, and the classes are the same."""
    _, first = trained(folder, base, epochs=1, validation=0.25, split="hash")
    warning = "was trained with --validation 0.25 --split hash --seed 0, so it has learned from pictures"
    warned = {
        "same": said(folder, first, validation=0.25, split="hash"),
        "split": said(folder, first, validation=0.25),
        "seed": said(folder, first, validation=0.25, split="hash", seed=1),
        "other network": said(folder, base, validation=0.25, seed=1),
        "other folder": said(folder, first, validation_folder=folder, seed=1),
    }
    found = {case: any(warning in line for line in lines) for case, lines in warned.items()}
    assert [case for case, was in found.items() if was] == ["split", "seed"]


def test_pictures_that_cannot_be_read(tmp_path: Path, base: Model) -> None:
    root = pictured_classes(tmp_path / "things", each=4)
    (root / "red" / "broken.png").write_bytes((root / "red" / "0.png").read_bytes()[:60])
    (root / "red" / "text.jpg").write_text("hello")
    lines = said(root, base)
    assert sum(line.startswith("left out: ") for line in lines) == 2
    with pytest.raises(UsageError, match=r"broken\.png.*[^.]\. Take it away, or say --unreadable skip"):
        said(root, base, unreadable="refuse")


def test_odd_pictures_are_pictures(tmp_path: Path, base: Model) -> None:
    root = pictured_classes(tmp_path / "things", each=4)
    for mode in ("L", "LA", "RGBA", "P", "1", "I;16"):
        pillow.new(mode, (9, 31)).save(root / "red" / f"{mode.replace(';', '')}.png")
    assert not [line for line in said(root, base) if "left out" in line]


def test_what_is_wrong_with_the_classes(tmp_path: Path, base: Model) -> None:
    root = pictured_classes(tmp_path / "things", each=6)
    (root / "empty").mkdir()
    (root / "RED").mkdir()
    (root / "RED" / "one.png").write_bytes((root / "red" / "0.png").read_bytes())
    lines = said(root, base, seed=1)
    assert "the class 'empty' has no pictures: it will never be learned." in lines
    assert "the classes 'RED' and 'red' differ in capitals only; are they one?" in lines
    assert any(
        line.startswith(("no picture of the class 'RED'", "all 1 pictures of the class 'RED'"))
        for line in lines
    )
    only = tmp_path / "only"
    (root / "red").rename(tmp_path / "kept")
    only.mkdir()
    (tmp_path / "kept").rename(only / "red")
    with pytest.raises(UsageError, match="a classifier needs two classes with pictures; only 'red' has"):
        said(only, base)


def test_a_folder_to_validate_with(tmp_path: Path, base: Model) -> None:
    train, other = pictured_classes(tmp_path / "train", each=4), pictured_classes(tmp_path / "val", each=2)
    result, model = trained(train, base, epochs=1, validation_folder=other)
    assert (result.data["pictures"], result.data["validated_with"]) == (12, 6)
    with pytest.raises(UsageError, match="no pictures for validation"):  # all were trained with
        cnnkit.run("evaluate", train, model=model, host=Host(), set="validation", explain="none")
    (other / "green").mkdir()
    with pytest.raises(UsageError, match=r"has a folder 'green', and .* has none"):
        trained(train, base, epochs=1, validation_folder=other)


def test_a_picture_is_in_one_set(folder: Path, base: Model, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("folder,label,set\nblue,a,train\nred,b,train\nred,b,validation\n")
    with pytest.raises(UsageError, match=r"more than one row for 'red/0\.png' and 7 more"):
        trained(folder, base, classes=table)
    with pytest.raises(UsageError, match="leave out --validation-folder"):
        trained(folder, base, classes=table, validation_folder=folder)


def test_nothing_to_validate_with(folder: Path, base: Model) -> None:
    result, _ = trained(folder, base, epochs=1, validation=0.0)
    assert result.text.endswith("best: frozen epoch 1, nothing to validate with")
    assert not any("nan" in line for line in said(folder, base, validation=0.0))


# Interrupted


class Impatient(LogReporter):
    """Presses Ctrl-C when it hears a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def say(self, text: str) -> None:
        if self.word in text:
            raise KeyboardInterrupt


@pytest.mark.parametrize("word", ["frozen 2/3: loss", "fine-tuned: ", "fine-tuned 1/2: loss"])
def test_it_goes_on_after_an_interruption(folder: Path, tmp_path: Path, word: str) -> None:
    """In the first phase, between both, and in the second: to the same network."""
    network = small_network("nchw", (24, 24)).save(tmp_path / "net.onnx")

    def run(place: str, reporter: LogReporter, resume: bool = False) -> bytes:
        options = {"way": "fine-tuned", "head_epochs": 3, "epochs": 2, "rate": 1e-3}
        job = Job("train", (str(folder),), ModelSpec(str(network)), options)
        outcomes = deliver(job, Host(), Settings(), reporter, output=f"{tmp_path}/{place}/", resume=resume)
        (outcome,) = outcomes
        outcome.unwrap()
        return (tmp_path / place / "things.train.last.onnx").read_bytes()

    def kernels(content: bytes) -> dict[str, bytes]:
        return weights(Model.of(onnx.load_from_string(content)))

    whole = kernels(run("whole", LogReporter()))
    with pytest.raises(KeyboardInterrupt):
        run("halved", Impatient(word))
    listener = Said()
    assert kernels(run("halved", listener, resume=True)) == whole
    assert not any(line.startswith("frozen 1/3: loss") for line in listener.lines)


def test_another_folder_is_another_training(tmp_path: Path) -> None:
    root = pictured_classes(tmp_path / "things", each=4)
    network = small_network("nchw", (24, 24)).save(tmp_path / "net.onnx")
    job = Job("train", (str(root),), ModelSpec(str(network)), {"epochs": 3})

    def run(settings: Settings, reporter: LogReporter) -> None:
        outcomes = deliver(job, Host(), settings, reporter, output=f"{tmp_path}/out/", resume=True)
        (outcome,) = outcomes
        outcome.unwrap()

    with pytest.raises(KeyboardInterrupt):
        run(Settings(), Impatient("frozen 2/3"))
    with pytest.raises(UsageError, match="--batch is another"):
        run(Settings(batch=4), LogReporter())
    (root / "red" / "0.png").rename(root / "red" / "9.png")
    with pytest.raises(UsageError, match="has other pictures"):
        run(Settings(), LogReporter())


def test_from_the_shell(folder: Path, tmp_path: Path) -> None:
    small_network("nchw", (24, 24)).save(tmp_path / "net.onnx")
    run = CliRunner().invoke(
        app,
        [
            "run",
            "train",
            str(folder),
            "-m",
            str(tmp_path / "net.onnx"),
            "--epochs",
            "2",
            "-o",
            str(tmp_path / "out") + "/",
        ],
    )
    assert run.exit_code == 0, run.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        f"things.train.{end}"
        for end in ("onnx", "last.onnx", "history.csv", "curves.png", "split.csv", "pictures.png", "json")
    }
    assert "frozen 2/2: loss" in run.stderr and "wrote" in run.output
    again = CliRunner().invoke(
        app, ["run", "classify", str(folder / "red"), "-m", str(tmp_path / "out" / "things.train.onnx")]
    )
    assert again.exit_code == 0, again.output
    manifest = tmp_path / "out" / "things.train.json"
    again = CliRunner().invoke(app, ["rerun", str(manifest), "-o", str(tmp_path / "again") + "/"])
    assert again.exit_code == 0, again.output
    assert {path.name for path in (tmp_path / "again").iterdir()} == written
