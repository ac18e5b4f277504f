"""`cnnkit models pull, import, export, verify` and `--weights`, as a person types them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import LABELS, LABELS_PATH, WEIGHTS_PATH, install, weights
from webserver import Web, serving

from cnnkit import Model
from cnnkit.testing import make_tiny_model

from .conftest import Ended, environment

Run = Callable[..., Ended]


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        web.files = {WEIGHTS_PATH: weights(), LABELS_PATH: LABELS}
        yield web


@pytest.fixture
def site(web: Web, tmp_path: Path, write_distribution: Callable[..., Path]) -> Path:
    return install(tmp_path / "site", web.address, write_distribution)


@pytest.fixture
def models(cnnkit: Run, site: Path, tmp_path: Path) -> Run:
    """`cnnkit` with the published networks and a store of its own."""
    home = {"CNNKIT_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    return lambda *arguments, **more: cnnkit(*arguments, sites=(site,), **{**home, **more})


def test_from_pull_to_rm(models: Run, tmp_path: Path) -> None:
    unknown = models("run", "classify", "sample:portrait", "-m", "tiny")
    assert unknown.code == 3 and "`cnnkit models pull tiny` fetches it" in unknown.err
    pulled = models("models", "pull", "tiny")
    assert (pulled.code, pulled.out) == (0, "")
    begun, labels, made, stored = pulled.err.splitlines()  # no bar in a pipe
    assert begun.startswith("fetching http") and labels.endswith("labels.json")
    assert made == "making 'tiny' of tiny.npz" and stored.startswith("stored 'tiny' as ")
    assert models("models", "pull", "tiny", "-q").err == ""
    assert "is there already" in models("models", "pull", "tiny").err

    listed = {row.split()[0]: row for row in models("models", "list").out.splitlines()}
    assert "0.6 MB" in listed["tiny"] and " pulled " in listed["tiny"] and "not pulled" in listed["vgg19"]
    shown = json.loads(models("models", "show", "tiny", "--json").out)
    assert shown["licence"] == "MIT" and shown["origin"].startswith("http") and shown["labels"] == 3
    classified = models("run", "classify", "sample:portrait", "-m", "tiny")
    assert classified.code == 0 and any(word in classified.out for word in ("red", "green", "blue"))

    verified = models("models", "verify")
    assert verified.code == 0 and verified.out.splitlines()[1].split()[:2] == ["tiny", "good"]
    path = Path(models("models", "path", "tiny").out.strip())
    path.write_bytes(path.read_bytes()[:-9])
    assert models("models", "verify", "--json").code == 1
    removed = models("models", "rm", "tiny")
    assert removed.code == 0 and list(path.parent.iterdir()) == []
    assert models("models", "verify", "tiny").code == 3


def test_the_list_imports_nothing_heavy(site: Path) -> None:
    script = (
        "import sys; from cnnkit.host.catalogue import known_networks; known_networks()\n"
        "print([n for n in ('h5py', 'requests', 'pooch', 'safetensors', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment((site,)), capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_what_goes_wrong_is_a_sentence(models: Run, web: Web, tmp_path: Path) -> None:
    del web.files[WEIGHTS_PATH]
    for code, said, arguments, more in [
        (3, "the server answers 404 Not Found", ["tiny"], {}),
        (3, "CNNKIT_OFFLINE is set", ["tiny"], {"CNNKIT_OFFLINE": "1"}),
        (3, "through the proxy 127.0.0.1:9 that HTTP_PROXY names", ["tiny"],
         {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}),
        (2, "there is no file nothing.npz", ["tiny", "--from", "nothing.npz"], {}),
    ]:  # fmt: skip
        ended = models("models", "pull", *arguments, **more)
        assert ended.code == code and said in ended.err, ended
        assert ended.err.splitlines()[-1].startswith("error: ") and ended.out == ""
    assert not (tmp_path / "home" / "models").exists()


def test_two_pulls_at_once(web: Web, site: Path, tmp_path: Path) -> None:
    web.delay = 1.0
    command = [sys.executable, "-m", "cnnkit", "models", "pull", "tiny"]
    settings = environment((site,), CNNKIT_HOME=str(tmp_path / "home"), NO_PROXY="127.0.0.1")
    pulls = [subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted((pull.communicate(timeout=60)[1] for pull in pulls), key=len)
    assert [pull.returncode for pull in pulls] == [0, 0], told
    waited, worked = told
    assert waited.splitlines()[0] == "another process is at work on tiny; waiting until it is done"
    assert "is there already" in waited and "stored 'tiny'" in worked
    assert [path for path, _ in web.asked] == [WEIGHTS_PATH, LABELS_PATH]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_keeps_the_part(models: Run, web: Web, site: Path, tmp_path: Path) -> None:
    web.breaks, web.statuses = [300_000], [200, *[500] * 9]  # then the server is ill, and the pull waits
    command = [sys.executable, "-m", "cnnkit", "models", "pull", "tiny"]
    settings = environment((site,), CNNKIT_HOME=str(tmp_path / "home"), NO_PROXY="127.0.0.1")
    pull = subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)
    while len(web.asked) < 2:
        assert pull.poll() is None
        time.sleep(0.02)
    pull.send_signal(signal.SIGINT)
    told = pull.communicate(timeout=30)[1]
    assert pull.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-2:] == [
        "stopped. 0.3 MB of tiny.npz are kept; the next pull goes on from there.",
        "interrupted",
    ]
    web.statuses.clear()
    assert models("models", "pull", "tiny").code == 0
    assert ("/weights/tiny.npz", "bytes=262144-") in web.asked


LIMITED = """
import resource, sys
from cnnkit.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("limit", [100_000, len(weights()) + 200])
def test_a_full_disk(models: Run, site: Path, tmp_path: Path, limit: int) -> None:
    """The disk is full while the weights arrive, or while the network is written."""
    settings = environment((site,), CNNKIT_HOME=str(tmp_path / "home"), NO_PROXY="127.0.0.1")
    command = [sys.executable, "-c", LIMITED, str(limit), "models", "pull", "tiny"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = "the disk is full, so" if limit < len(weights()) else "cannot write"
    assert said in done.stderr.splitlines()[-1]
    assert list((tmp_path / "home").rglob("*.onnx")) == [] == list((tmp_path / "home").rglob("*.tmp"))
    assert models("models", "pull", "tiny").code == 0 and models("models", "verify").code == 0


def test_import(models: Run, tmp_path: Path) -> None:
    make_tiny_model().save(tmp_path / "net.onnx")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    done = models(
        "models", "import", "net.onnx", "--name", "mine", "--labels", "names.txt", "--preprocess", "torch"
    )
    assert done.code == 0 and done.err.startswith("stored 'mine' as ")
    shown = json.loads(models("models", "show", "mine", "--json").out)
    assert shown["labels"] == 3 and shown["origin"] == "net.onnx" and shown["preprocessing"]["scale"] != 1
    assert "imported from net.onnx" in models("models", "list").out
    assert models("models", "import", "net.onnx", "--name", "mine").code == 1
    assert models("models", "import", "net.onnx", "--name", "vgg19").code == 2
    assert models("models", "import", "net.onnx").code == 2


def test_export(models: Run, tmp_path: Path) -> None:
    done = models(
        "models",
        "export",
        "tiny",
        "-o",
        "new.onnx",
        "--weights",
        "random:0",
        "--classes",
        "7",
        "--to",
        "dense",
    )
    assert (done.code, done.out, done.err) == (0, "new.onnx\n", "")
    model = Model.load(tmp_path / "new.onnx")
    assert model.classes == 7 and model.layers[-1].name == "dense" and model.origin == "random:0"
    size = ["--input-size", "8x24"]
    streamed = models("models", "export", "tiny", "-o", "-", "--weights", "random:0", *size)
    (tmp_path / "streamed.onnx").write_bytes(streamed.stdout)
    assert Model.load(tmp_path / "streamed.onnx").graph.size == (8, 24)
    for code, said, arguments in [
        (1, "new.onnx is there already", ["tiny", "-o", "new.onnx", "--weights", "random:0"]),
        (
            2,
            "takes no alpha; it takes classes, size",
            ["tiny", "-o", "x.onnx", "--weights", "random:0", "--alpha", "1"],
        ),
        (2, "takes no activation", ["tiny", "-o", "x.onnx", "--weights", "random:0", "--no-softmax"]),
        (2, "has its classes already", ["default", "-o", "x.onnx", "--classes", "7"]),
        (3, "is not on this machine", ["tiny", "-o", "x.onnx"]),
    ]:
        ended = models("models", "export", *arguments)
        assert ended.code == code and said in ended.err, ended
    assert not (tmp_path / "x.onnx").exists()
    assert models("models", "export", "default", "-o", "new.onnx", "--force", "--float16").code == 0
    assert (tmp_path / "new.onnx").stat().st_size < 2_600_000


def test_weights_are_an_option_wherever_a_network_is(models: Run, tmp_path: Path) -> None:
    chosen = ["--weights", "random:3"]
    assert "first" in models("models", "layers", "tiny", *chosen).out
    assert models("models", "show", "tiny", *chosen).code == 0
    assert models("export", "gradient", "tiny", *chosen, "--output", "dense:0", "-o", "g.onnx").code == 0
    assert models("check", "gradient", "tiny", *chosen, "--layer", "dense").code == 0
    (tmp_path / "mine.npz").write_bytes(weights())
    run = ["run", "activations", "sample:shapes", "-m", "tiny", "--layers", "first", "--weights", "mine.npz"]
    assert models(*run, "-o", "a.png").code == 0
    manifest = json.loads((tmp_path / "a.json").read_text())
    assert manifest["job"]["model"]["weights"] == str(tmp_path / "mine.npz")
    again = models("rerun", "a.json", "-o", "b.png")
    assert again.code == 0, again.err
    first, second = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    assert first.std() > 1 and np.array_equal(first, second)


def test_the_doctor_tells_the_settings(models: Run) -> None:
    told = json.loads(models("doctor", "--json", CNNKIT_MIRROR="/mirror", CNNKIT_OFFLINE="1").out)["facts"]
    assert told["environment"]["CNNKIT_MIRROR"] == "/mirror" and told["environment"]["CNNKIT_OFFLINE"] == "1"
    assert told["networks"].endswith("models")
