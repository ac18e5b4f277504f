"""A real third-party package, built and installed with pip: found, run, listed, checked, disabled."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Ended, environment

Run = Callable[..., Ended]
PLUGINS = {
    ("cnnkit.operations", "edges"),
    ("cnnkit.operations", "brightness"),
    ("cnnkit.models", "acme-net"),
    ("cnnkit.gradient_rules", "MaxUnpool"),
    ("cnnkit.losses", "acme-l1"),
}


def test_found_and_listed(cnnkit: Run, acme: Path) -> None:
    listed = json.loads(cnnkit("plugins", "list", "--json", sites=(acme,)).out)
    ours = [plugin for plugin in listed if plugin["distribution"] == "cnnkit-acme"]
    assert {(plugin["group"], plugin["name"]) for plugin in ours} == PLUGINS
    assert all((plugin["version"], plugin["state"]) == ("1.2.3", "ready") for plugin in ours)

    helped = cnnkit("run", "--help", sites=(acme,))
    assert helped.code == 0
    assert any("edges" in line and "from cnnkit-acme" in line for line in helped.out.splitlines())
    assert any("occlusion" in line and "built in" in line for line in helped.out.splitlines())


def test_run(cnnkit: Run, acme: Path, picture: Path) -> None:
    done = cnnkit("run", "edges", picture, sites=(acme,))
    assert (done.code, done.out) == (0, "photo: mean step 63.750\n")
    steps = np.load(picture.with_name("photo.edges.npz"))["steps"]
    assert (steps == [0, 255, 0, 0]).all()
    told = json.loads(picture.with_name("photo.edges.json").read_text())
    assert told["plugin"] == "cnnkit-acme 1.2.3"
    assert told["data"] == {"mean": 63.75}
    assert told["job"]["operation"] == "edges" and told["job"]["model"] is None


def test_options_of_every_kind(cnnkit: Run, acme: Path, picture: Path) -> None:
    """The same choices as flags, as the environment's defaults, and their effect on known pixels."""
    (picture.parent / "note.txt").write_text("a note")
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 255
    Image.fromarray(pixels).save(picture.with_name("mask.png"))
    flags = (
        "--amount 10 --factor 0.5 --invert --channel red --tags one --tags two --note note.txt --limit 120"
    )
    flags += " --window 16-200 --mask mask.png"
    done = cnnkit("run", "brightness", "photo.png", *flags.split(), "-o", "a.png", "--json", sites=(acme,))
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["tags"] == ["one", "two"] and told["note"] == "a note"
    # black turns white, is halved and gets 10, but not above 120; white turns black and gets 16 at least
    expected = np.asarray(Image.open(picture)).copy()
    expected[:2, :2, 0], expected[:2, 2:, 0] = 120, 16
    assert (np.asarray(Image.open(picture.with_name("a.png"))) == expected).all()

    variables = {"AMOUNT": "10", "FACTOR": "0.5", "INVERT": "1", "CHANNEL": "red", "LIMIT": "120"}
    variables |= {"TAGS": "one two", "NOTE": "note.txt", "WINDOW": "16-200", "MASK": "mask.png"}
    defaults = {f"CNNKIT_BRIGHTNESS_{name}": value for name, value in variables.items()}
    again = cnnkit("run", "brightness", "photo.png", "-o", "b.png", "--json", sites=(acme,), **defaults)
    assert {**json.loads(again.out), "outputs": []} == {**told, "outputs": []}
    assert picture.with_name("b.png").read_bytes() == picture.with_name("a.png").read_bytes()

    manifest = json.loads(picture.with_name("a.json").read_text())
    assert manifest["job"]["options"]["mask"] == str(picture.with_name("mask.png"))
    assert manifest["job"]["options"]["window"] == "16-200" and manifest["job"]["options"]["amount"] == 10


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--amount 256", "--amount takes a number, from -255 to 255, not 256."),
        ("--amount two", "--amount takes a whole number, not 'two'."),
        ("--factor -1", "--factor takes a number, at least 0, not -1.0."),
        ("--channel grean", "--channel takes all, red, green, blue, not 'grean'. Did you mean 'green'?"),
        ("--chanel red", "--channel"),
        ("--window 9-1", "a window is LOW-HIGH within 0 and 255"),
        ("--mask missing.png", "there is no file 'missing.png'"),
    ],
)
def test_wrong_options(cnnkit: Run, acme: Path, picture: Path, flags: str, said: str) -> None:
    done = cnnkit("run", "brightness", picture, *flags.split(), sites=(acme,))
    assert done.code == (1 if "missing" in flags else 2), done.err
    assert said in done.err and done.out == ""


def test_its_own_help(cnnkit: Run, acme: Path) -> None:
    text = cnnkit("run", "brightness", "--help", sites=(acme,)).out
    for words in (
        "--amount",
        "(from -255 to 255; default: 40)",
        "--no-invert",
        "all|red|green|blue",
        "PICTURE",
    ):
        assert words in text
    assert "--model" not in text and "Make a picture lighter or darker." in text


def test_network_of_a_plugin(cnnkit: Run, acme: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), (10, 20, 200)).save(tmp_path / "blue.png")
    done = cnnkit("run", "classify", "blue.png", "--model", "acme-net", "--json", sites=(acme,))
    assert json.loads(done.out)["classes"][0]["label"] == "blue", done.err
    assert "acme-net" in cnnkit("models", "list", "--quiet", sites=(acme,)).out.splitlines()
    told = json.loads(cnnkit("models", "layers", "acme-net", "--json", sites=(acme,)).out)
    assert [layer["name"] for layer in told["layers"]][:2] == ["mix", "mix_relu"]


def test_rules_and_losses(acme: Path) -> None:
    script = (
        "import cnnkit; host = cnnkit.Host(strict=True);"
        "print(host.gradient_rules()['MaxUnpool'].__name__, host.losses()['acme-l1'].__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment((acme,)), capture_output=True, text=True
    )
    assert done.stdout == "max_unpool l1\n", done.stderr


def test_its_gradient_rule(acme: Path) -> None:
    script = (
        "import numpy as np; from cnnkit_acme.gradients import max_unpool;"
        "from cnnkit.testing import check_gradient_rule;"
        "x, places = np.arange(4.0).reshape(1, 1, 2, 2), np.array([[[[0, 3], [8, 14]]]]);"
        "check_gradient_rule('MaxUnpool', max_unpool, x, places, kernel_shape=[2, 2], strides=[2, 2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment((acme,)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_checked(cnnkit: Run, acme: Path) -> None:
    done = cnnkit("plugins", "check", "cnnkit-acme", sites=(acme,))
    assert done.code == 0
    assert done.out.count("\n  good\n") == len(PLUGINS)
    assert "--amount" in done.out and "Make a picture lighter or darker." in done.out
    missing = cnnkit("plugins", "check", "cnnkit-acne", sites=(acme,))
    assert missing.code == 2 and "there is no plugin and no distribution 'cnnkit-acne'" in missing.err


@pytest.mark.parametrize("word", ["edges", "cnnkit-acme", "Cnnkit_Acme, other"])
def test_disabled(cnnkit: Run, acme: Path, picture: Path, word: str) -> None:
    done = cnnkit("run", "edges", picture, sites=(acme,), CNNKIT_DISABLE=word)
    assert (
        done.code == 2 and "'edges' of cnnkit-acme 1.2.3 cannot be used: CNNKIT_DISABLE names it" in done.err
    )
    listed = json.loads(cnnkit("plugins", "list", "--json", sites=(acme,), CNNKIT_DISABLE=word).out)
    states = {plugin["name"]: plugin["state"] for plugin in listed}
    assert states["edges"] == "disabled" and states["occlusion"] == "ready"
    assert (states["brightness"] == "disabled") == (word != "edges")
