"""Networks that are made from weights: pulled, stored, named, and built without being stored."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from published import LABELS, LABELS_PATH, NAMES, WEIGHTS_PATH, arrays, entry_points, install, weights
from said import Said
from webserver import Web, serving

import cnnkit
from cnnkit import Host, Model, ModelError, ModelSpec, OutputError, PluginError, UsageError
from cnnkit.host import catalogue, transfer
from cnnkit.host.changes import Changes
from cnnkit.host.pull import import_network, pull
from cnnkit.host.store import record_of, remove_network, stored_networks, verify_networks


@dataclass
class Shop:
    """A server with published weights, and a host that knows the networks which they are for."""

    web: Web
    host: Host
    home: Path
    said: Said = field(default_factory=Said)

    def pull(self, name: str, **options: object) -> Path:
        return pull(name, host=self.host, reporter=self.said, **options)  # type: ignore[arg-type]

    @property
    def files(self) -> set[str]:
        """All in the folder, but locks."""
        found = (path for path in self.home.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(self.home)) for path in found}


@pytest.fixture
def shop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_distribution: Callable[..., Path]
) -> Iterator[Shop]:
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    with serving() as web:
        web.files = {WEIGHTS_PATH: weights(), LABELS_PATH: LABELS}
        site = install(tmp_path / "site", web.address, write_distribution)
        monkeypatch.syspath_prepend(site)
        yield Shop(web, Host(entry_points(site), disabled=[]), tmp_path / "home")
    sys.modules.pop("published_networks", None)


def test_a_pulled_network_says_everything(shop: Shop) -> None:
    with pytest.raises(
        ModelError, match=r"'tiny' is not on this machine; `cnnkit models pull tiny` fetches it \(1 MB\)"
    ):
        shop.host.locate("tiny")
    path = shop.pull("tiny")
    assert shop.host.locate("tiny") == path == shop.home / "models" / "tiny.onnx"
    model = Model.load(path)
    address = shop.web.address + WEIGHTS_PATH
    assert (model.name, model.licence, model.labels) == ("tiny", "MIT", ("red", "green", "blue"))
    assert model.origin.startswith(f"{address} (md5:") and model.assumptions == ()
    assert model.preprocessing.std != (1.0, 1.0, 1.0) and model.preprocessing.height == 16
    record = record_of(path)
    assert record and (record.origin, record.published) == (address, True)
    assert record.sha256 == model.sha256 and record.cnnkit == cnnkit.__version__
    assert record.options == {"network": "tiny", "to": None, "fold": False, "float16": False}
    assert shop.said.lines[-1] == f"stored 'tiny' as {path} ({path.stat().st_size / 1e6:.1f} MB)"
    # the raw download is gone, the class names stay for the next network
    assert {name for name in shop.files if "tiny.npz" in name} == set()
    assert {Path(name).name for name in shop.files} == {"tiny.onnx", "tiny.json", "labels.json"}


def test_the_numbers_are_those_of_the_weights(shop: Shop) -> None:
    model = Model.load(shop.pull("tiny"))
    black = -np.array(model.preprocessing.mean) / np.array(model.preprocessing.std)
    picture = np.broadcast_to(black.astype(np.float32)[None, :, None, None], (1, 3, 16, 16))
    found = cnnkit.Session(model).run(np.ascontiguousarray(picture), ["first/conv"])["first/conv"]
    inside = found[0, :, 8, 8]  # every neighbour is black, too
    assert inside == pytest.approx(arrays()["first"].sum((2, 3)) @ black, abs=1e-5)


def test_pulling_twice_does_nothing(shop: Shop) -> None:
    path = shop.pull("tiny")
    before, asked = path.stat().st_mtime_ns, len(shop.web.asked)
    shop.pull("tiny")
    assert path.stat().st_mtime_ns == before and len(shop.web.asked) == asked
    assert shop.said.lines[-1] == f"the network 'tiny' is there already: {path}"
    with pytest.raises(
        OutputError, match="stored already, but was not pulled with these options; --force puts"
    ):
        shop.pull("tiny", float16=True)
    shop.pull("tiny", force=True)
    assert len(shop.web.asked) == asked + 1  # the labels are still there


def test_changes_and_other_names(shop: Shop) -> None:
    whole, cut = shop.pull("tiny"), shop.pull("tiny", to="first", stored_as="tiny-first")
    halved = shop.pull("tiny", float16=True, stored_as="tiny.half")
    assert sorted(stored_networks()) == ["tiny", "tiny-first", "tiny.half"]
    first = Model.load(cut)
    assert (first.layers[-1].name, first.labels, first.name) == ("first", (), "tiny-first")
    assert halved.stat().st_size < 0.55 * whole.stat().st_size
    record = record_of(cut)
    assert record and record.summary == "a tiny network (to first)"
    assert shop.host.model(ModelSpec("tiny-first")).origin == Model.load(whole).origin
    with pytest.raises(UsageError, match="no layer is called 'frist'"):
        shop.pull("tiny", to="frist", stored_as="x")
    for name, said in [
        ("own", "that a plugin has"),
        ("a/b", "made of letters"),
        ("x.onnx", "made of letters"),
    ]:
        with pytest.raises(UsageError, match=said):
            shop.pull("tiny", stored_as=name)
    assert "x" not in stored_networks()


def test_a_failed_pull_leaves_nothing_that_claims_to_be_whole(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnkit.host import store

    def full(path: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "sha256_of", full)
    with pytest.raises(OSError, match="No space left"):
        shop.pull("tiny")
    monkeypatch.undo()
    assert not [name for name in shop.files if name.startswith("models")]


def test_a_failed_pull_leaves_what_was_there_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shop.pull("tiny")

    def full(model: Model, path: Path) -> Path:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(OutputError, match="the disk is full"):
        patched.setattr(Model, "save", full)
        shop.pull("tiny", force=True, float16=True)
    record = record_of(path)
    assert record and record.options["float16"] is False
    assert [found["good"] for found in verify_networks()] == [True]


def test_weights_that_the_user_brings(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, names = tmp_path / "mine.npz", tmp_path / "names.txt"
    mine.write_bytes(weights(1))
    names.write_text("a\nb\nc\n")
    monkeypatch.setenv("CNNKIT_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"mine\.npz is not http.*tiny\.npz: that has the checksum md5:"):
        shop.pull("tiny", file=mine)
    mine.write_bytes(weights())
    with pytest.raises(
        ModelError, match=r"labels\.json is not asked\. .*: bring labels\.json \(0\.0 MB\) and say --labels"
    ):
        shop.pull("tiny", file=mine)
    path = shop.pull("tiny", file=mine, labels=names)
    assert Model.load(path).labels == ("a", "b", "c") and mine.exists() and shop.web.asked == []
    path = shop.pull("own", file=mine)
    assert Model.load(path).origin.startswith("mine.npz (sha256:")
    with pytest.raises(UsageError, match="nobody publishes weights for 'own'; bring a file with --from FILE"):
        shop.pull("own", stored_as="other")


def test_a_checksum_that_nobody_publishes_outlives_the_network(shop: Shop) -> None:
    shop.pull("loose")
    assert any(line.startswith("nobody publishes a checksum of ") for line in shop.said.lines)
    record = record_of(shop.home / "models" / "loose.onnx")
    assert record and not record.published and record.checksum.startswith("sha256:")
    remove_network("loose")
    assert not [name for name in shop.files if name.startswith("models")]
    shop.web.files[WEIGHTS_PATH] = weights(1)
    with pytest.raises(ModelError, match="at the first download it had sha256:"):
        shop.pull("loose", force=True)
    assert stored_networks() == {}


def test_what_cannot_be_pulled(shop: Shop) -> None:
    with pytest.raises(PluginError, match=r"there is no network 'tinny'.* Did you mean 'tiny'\?"):
        shop.pull("tinny")
    with pytest.raises(PluginError, match="its network 'neither' has neither `locate` nor `build`"):
        shop.pull("neither")
    with pytest.raises(UsageError, match="'default' comes with its plugin: there is nothing to pull"):
        pull("default", reporter=shop.said)


def test_a_host_builds_from_weights(shop: Shop, tmp_path: Path) -> None:
    host, file = shop.host, tmp_path / "mine.npz"
    file.write_bytes(weights(1))
    spec = ModelSpec("tiny", weights=str(file), fit="pad")
    model = host.model(spec)
    assert (model.name, model.origin, model.preprocessing.fit) == ("tiny", str(file), "pad")
    assert host.model(spec) is model and host.model(ModelSpec("tiny", weights="random:1")) is not model
    file.write_bytes(weights(2) + b"")
    import os

    os.utime(file, ns=(1, 1))
    assert host.model(spec) is not model and stored_networks() == {}
    assert host.build("tiny", "random:0", classes=7).classes == 7
    for error, said, asked in [
        (UsageError, "fixed height of 16, not 8", ModelSpec("tiny", weights="random:0", size=(8, 8))),
        (ModelError, "'tiny' cannot be had: FileNotFoundError", ModelSpec("tiny", weights="nothing.npz")),
        (ModelError, "there is no network 'tyni'", ModelSpec("tyni", weights="random:0")),
    ]:
        with pytest.raises(error, match=said):
            host.model(asked)
    with pytest.raises(UsageError, match="takes no alpha; it takes classes, size"):
        host.build("tiny", "random:0", alpha=1)
    with pytest.raises(UsageError, match="'default' is a whole file and takes no weights"):
        Host().model(ModelSpec("default", weights="random:0"))


def test_imports(shop: Shop, tmp_path: Path, tiny_model: Model) -> None:
    whole = tiny_model.save(tmp_path / "net.onnx")
    bare = tmp_path / "bare.onnx"
    proto = tiny_model.graph.proto
    del proto.metadata_props[:]
    bare.write_bytes(proto.SerializeToString())
    names = tmp_path / "names.json"
    names.write_text('["a", "b", "c"]')

    path = import_network(bare, "mine", labels=names, licence="MIT", host=shop.host, reporter=shop.said)
    assert "mine: preprocessing is not in the file: assumed 'tf'" in shop.said.lines[0]
    model = Model.load(path)
    assert (model.name, model.labels, model.licence, model.origin) == (
        "mine",
        ("a", "b", "c"),
        "MIT",
        "bare.onnx",
    )
    assert model.assumptions == () and model.layers[-1].name == "probabilities"
    with pytest.raises(OutputError, match="'mine' is stored already"):
        import_network(whole, "mine", host=shop.host)
    import_network(whole, "mine", changes=Changes(to="relu"), force=True, host=shop.host)
    assert Model.load(path).layers[-1].name == "relu"
    with pytest.raises(UsageError, match="that a plugin has"):
        import_network(whole, "tiny", host=shop.host)
    with pytest.raises(ModelError, match="nowhere"):
        import_network(tmp_path / "nowhere.onnx", "x", host=shop.host)


def test_verify(shop: Shop, tmp_path: Path, tiny_model: Model) -> None:
    path = shop.pull("tiny")
    import_network(tiny_model.save(tmp_path / "net.onnx"), "mine", host=shop.host)
    assert [found["good"] for found in verify_networks()] == [True, True]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # within a kernel, so it still loads
    path.write_bytes(data)
    Model.load(path)
    (mine, tiny) = verify_networks()
    assert mine["good"] and "its sha256 is not the one it was stored with" in tiny["problem"]
    (shop.home / "models" / "tiny.json").unlink()
    path.write_bytes(data[:1000])
    (tiny,) = verify_networks(["tiny"])
    assert not tiny["good"] and str(path) in tiny["problem"]
    with pytest.raises(ModelError, match="there is no stored network 'x'"):
        verify_networks(["x"])


def test_the_list(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnkit.host import host

    monkeypatch.setattr(host, "_host", shop.host)
    shop.pull("tiny")
    shop.pull("tiny", to="first", stored_as="part")
    found = {entry["name"]: entry for entry in catalogue.known_networks()}
    states = {name: entry["state"] for name, entry in found.items()}
    assert states == {"tiny": "pulled", "loose": "not pulled", "own": "not pulled", "part": "stored"}
    assert found["tiny"]["bytes"] == (shop.home / "models" / "tiny.onnx").stat().st_size
    assert (found["loose"]["path"], found["loose"]["bytes"], found["loose"]["download"]) == (None, None, None)
    assert found["tiny"]["download"] == len(weights()) and found["part"]["licence"] == "MIT"
    assert set(states) == {*NAMES, "part"} - {"neither"}
    json.dumps(list(found.values()))
    described = catalogue.describe(ModelSpec("tiny", weights="random:0"))
    assert (described["path"], described["origin"]) == (None, "random:0")
    assert catalogue.describe(ModelSpec("tiny"))["origin"].startswith(shop.web.address)


def test_a_layer_of_several_nodes_shows_them_all() -> None:
    table = catalogue.layer_table(ModelSpec("vgg16-notop", weights="random:0", size=(32, 32)))
    operators = {row["name"]: row["operator"] for row in table["layers"]}
    assert operators["block1_conv1"] == "Conv+Relu" and operators["block1_pool"] == "MaxPool"
