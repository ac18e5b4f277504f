"""Which pictures are evaluated: whole folders, sets, tables; and which class a folder is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictured_classes import CLASSES, pictured_classes
from said import Said
from small_network import small_network

from cnnkit import Context, Dataset, Host, Model, Settings, UsageError, manifest_of
from cnnkit.plugins.evaluation.options import EvaluateOptions
from cnnkit.plugins.evaluation.pictures import Chosen, choose

LABELS = ("grey", "red, scarlet", "Blue", "striped", "red wine", "green", "7", "striped horse")
"""Of the eight classes of the small network."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictured_classes(tmp_path_factory.mktemp("data") / "things", each=5, size=8)


@pytest.fixture(scope="module")
def network() -> Model:
    return replace(small_network("nchw", (24, 24)), labels=LABELS)


def trained(network: Model, share: float = 0.2, rule: str = "keras", seed: int = 0) -> Model:
    """As if it had been trained on the folder."""
    record = {
        "options": {"validation": share, "split": rule},
        "seed": seed,
        "pictures": 12,
        "validated_with": 3,
    }
    names = (*CLASSES, *"abcde")
    return replace(network, labels=names, origin="trained by cnnkit on things, from small", training=record)


def chosen(folder: Path, model: Model, seed: int = 0, **options: Any) -> tuple[Chosen, list[str]]:
    listener = Said()
    context = Context(Host(), Settings(), seed, listener)
    return choose(folder, model, EvaluateOptions(**options), context), listener.lines


def files(found: Chosen) -> list[str]:
    return [picture.file for picture in found.pictures]


def test_the_whole_folder_by_name(folder: Path, network: Model) -> None:
    found, said = chosen(folder, network)
    assert files(found) == sorted(Dataset.index(folder).files) and not said
    truths = {picture.file.split("/")[0]: picture.truth for picture in found.pictures}
    assert truths == {"blue": 2, "red": 1, "striped": 3}


def test_what_a_training_held_out(folder: Path, network: Model) -> None:
    """By its record; by options; by the table that it wrote."""
    split = Dataset.index(folder).split(0.4, 3, "hash")
    expected = sorted(split.validation.files)
    recorded, said = chosen(folder, trained(network, 0.4, "hash", 3), set="validation")
    assert files(recorded) == expected and not said and recorded.recorded is None
    asked, _ = chosen(folder, network, seed=3, set="validation", validation=0.4, split="hash")
    assert files(asked) == expected
    learned, _ = chosen(folder, network, seed=3, set="train", validation=0.4, split="hash")
    assert files(learned) == sorted(split.train.files)
    default, _ = chosen(folder, network, set="validation")
    assert files(default) == sorted(Dataset.index(folder).split(0.2, 0).validation.files)


def test_the_table_of_a_training(folder: Path, network: Model, tmp_path: Path) -> None:
    split = Dataset.index(folder).split(0.3, 5)
    table = tmp_path / "split.csv"
    table.write_text(manifest_of({"train": split.train, "validation": split.validation}))
    for name, dataset in {None: split.validation, "train": split.train, "all": Dataset.index(folder)}.items():
        assert files(chosen(folder, network, set=name, manifest=table)[0]) == sorted(dataset.files)
    table.write_text("set,file,label\nvalidation,red/gone.png,red\nvalidation,red/too.png,red\n")
    with pytest.raises(UsageError, match=r"names 'red/gone\.png' and 1 more, which .*things does not have"):
        chosen(folder, network, manifest=table)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="should have the columns 'set', 'file' and 'label'"):
        chosen(folder, network, manifest=table)
    with pytest.raises(UsageError, match="cannot be read"):
        chosen(folder, network, manifest=tmp_path / "none.csv")


def test_folders_with_other_names(folder: Path, network: Model, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("folder,label,set\nred,scarlet,validation\nblue,7,train\nstriped,5,validation\n")
    found, said = chosen(folder, network, classes=table, set="validation")
    truths = {picture.file.split("/")[0]: picture.truth for picture in found.pictures}
    assert truths == {"red": 1, "striped": 5} and said == ["the class '7' has no pictures for validation."]
    found, _ = chosen(folder, network, classes=table)
    assert {picture.truth for picture in found.pictures} == {1, 5, 6}
    table.write_text("folder,label\nred,red wine\nred,green\n")
    with pytest.raises(UsageError, match=r"classes\.csv has more than one row for 'red/0\.png' and 4 more"):
        chosen(folder, network, classes=table)


def test_folders_that_are_no_class(folder: Path, network: Model) -> None:
    def evaluate(*labels: str) -> None:
        chosen(folder, replace(network, labels=labels + tuple("abcdefgh")[len(labels) :]))

    with pytest.raises(UsageError, match=r"'striped' is no class.*mean 'stripes'\?.*--classes TABLE"):
        evaluate("red", "blue", "stripes")
    with pytest.raises(UsageError, match=r"'red' may be several classes of 'small': 1 \(red\), 4 \(Red\)"):
        evaluate("blue", "red", "striped", "x", "Red")
    with pytest.raises(UsageError, match=r"has no labels.*--labels"):
        chosen(folder, replace(network, labels=()))


def test_what_it_learned_from_is_said(folder: Path, network: Model, tmp_path: Path) -> None:
    model = replace(trained(network), labels=CLASSES)
    _, said = chosen(folder, model)
    assert said == [
        "the 12 pictures that the network learned from seem to be among these 15: --set validation leaves "
        "them out."
    ]
    held_out, said = chosen(folder, model, set="validation")
    assert not said and held_out.recorded == 3 == len(held_out.pictures)
    other = pictured_classes(tmp_path / "other", each=2, size=8)
    assert not chosen(other, model)[1]


def test_empty_folders(folder: Path, network: Model, tmp_path: Path) -> None:
    root = pictured_classes(tmp_path / "things", each=1, size=8)
    (root / "unheard of").mkdir()
    found, said = chosen(root, network)
    assert found.empty == ("unheard of",) and said == ["the class 'unheard of' has no pictures."]
    with pytest.raises(UsageError, match="no pictures for validation: there is nothing to evaluate"):
        chosen(root, network, set="validation", validation=0.0)
