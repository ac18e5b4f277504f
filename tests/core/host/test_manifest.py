"""What a manifest says, and what a picture carries of it."""

import json
from pathlib import Path

import numpy as np

import cnnkit
from cnnkit import Image, Job, Model, ModelSpec
from cnnkit.host.context import Settings
from cnnkit.host.manifest import manifest, provenance


def test_what_it_says(tmp_path: Path, tiny_model: Model) -> None:
    path = tiny_model.save(tmp_path / "tiny.onnx")
    (outcome,) = cnnkit.map(
        "classify", ["sample:shapes"], model=path, seed=3, settings=Settings("cpu", 1), top=2
    )
    told = json.loads(json.dumps(outcome.manifest, allow_nan=False))
    assert told["cnnkit"] == cnnkit.__version__ and told["plugin"] == f"cnnkit {cnnkit.__version__}"
    assert told["job"]["sources"] == ["sample:shapes"] and told["job"]["seed"] == 3
    assert told["job"]["options"]["top"] == 2 and told["job"]["options"]["score"] == "probabilities"
    assert told["job"]["model"]["name"] == str(path)
    assert told["settings"] == {"device": "cpu", "threads": 1, "max_memory": None, "batch": None}
    picture = Image.load("sample:shapes")
    assert told["picture"]["sha256"] == picture.sha256
    assert (told["picture"]["height"], told["picture"]["width"]) == picture.size
    assert told["model"]["name"] == "tiny" and told["model"]["sha256"] == Model.load(path).sha256
    assert told["model"]["preprocessing"] == tiny_model.preprocessing.to_json()
    assert {"python", "onnxruntime", "numpy", "onnx", "pillow"} <= told["versions"].keys()


def test_what_a_picture_carries(tmp_path: Path, tiny_model: Model) -> None:
    """Enough to know what it is, and nothing of the machine it was made on."""
    path = tiny_model.save(tmp_path / "tiny.onnx")
    (outcome,) = cnnkit.map("occlusion", ["sample:shapes"], model=path, patch=8, stride=8)
    carried = provenance(outcome.manifest)
    assert carried["operation"] == "occlusion" and carried["model"]["name"] == "tiny"
    assert carried["picture"] == Image.load("sample:shapes").sha256
    assert str(tmp_path) not in json.dumps(carried)


def test_sources_from_memory() -> None:
    picture = np.zeros((2, 2), np.uint8)
    told = manifest(Job("x", (picture, b"data")), Settings(), Image.load(picture), None, "acme 1")
    assert (
        told["job"]["sources"] == [None, None] and told["picture"]["source"] is None and told["model"] is None
    )


def test_paths_are_absolute() -> None:
    job = Job("x", ("a.png", Path("b.png"), "-", "sample:shapes"), ModelSpec("net.onnx", labels="l.txt"))
    told = job.to_json()
    here = Path.cwd()
    assert told["sources"] == [str(here / "a.png"), str(here / "b.png"), "-", "sample:shapes"]
    assert told["model"]["name"] == str(here / "net.onnx") and told["model"]["labels"] == str(here / "l.txt")
    assert Job("x", (), ModelSpec("default")).to_json()["model"]["name"] == "default"
