"""`cnnkit sweep` at a shell: what is typed, what is printed, how it ends, and what survives a kill."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_network import picture as waves
from small_network import small_network

from .conftest import Ended, environment

Run = Callable[..., Ended]

CHILD = """
import cnnkit.plugins.synthesis.run as run
from cnnkit.cli.main import main
from cnnkit.plugins.synthesis.record import Record
run.CHECKPOINT = 0.0  # behind each iteration
Record.plot = lambda record: b""
main()
"""
THREE_BY_THREE = """sweep style-transfer p0.png --style p0.png,p1.png,p2.png --content-weight 0.1,1,10
    --model small.onnx --preset gatys-code --style-layers one,two; --content-layers two --size height:32
    --iterations 12 --threads 1""".split()


def manifests(folder: Path) -> dict[str, int]:
    """Of the cells that are done, with the time that they were written."""
    found = {}
    for path in folder.glob("*.style-transfer.json"):
        told = json.loads(path.read_text())
        if "unfinished" not in told and all((folder / name).exists() for name in told["outputs"]):
            found[path.name] = path.stat().st_mtime_ns
    return found


def pictures(folder: Path) -> dict[str, Any]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.style-transfer.png")}


def test_a_killed_sweep_does_only_what_is_missing(tmp_path: Path) -> None:
    small_network().save(tmp_path / "small.onnx")
    for number, size in enumerate([(32, 40), (36, 28), (30, 30)]):
        Image.fromarray(waves(*size, number).astype(np.uint8)).save(tmp_path / f"p{number}.png")

    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CHILD, *THREE_BY_THREE, "--output", folder]
        return subprocess.Popen(command, cwd=tmp_path, env=environment(()), stderr=subprocess.PIPE)

    folder = tmp_path / "killed"
    child = start("killed/")
    while len(manifests(folder)) < 4:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    before = manifests(folder)
    assert 4 <= len(before) < 9

    for name in ("killed/", "whole/"):
        with start(name) as child:
            _, told = child.communicate()
        assert child.returncode == 0, told.decode()
        if name == "killed/":
            assert f"{len(before)} of 9 are done already".encode() in told
    after = manifests(folder)
    assert len(after) == 9 and {name: after[name] for name in before} == before
    resumed, whole = pictures(folder), pictures(tmp_path / "whole")
    assert resumed.keys() == whole.keys() and len(whole) == 9
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert (folder / "sweep.png").is_file() and not list(folder.glob("*checkpoint*"))


def test_what_is_printed_and_how_it_ends(cnnkit: Run, acme: Path, picture: Path) -> None:
    folder = picture.parent / "brightness.sweep"
    done = cnnkit("sweep", "brightness", picture, "--channel", "red,green", sites=(acme,))
    assert done.code == 0, done
    table = [line.split() for line in done.out.splitlines()]
    assert table[0][:2] == ["channel", "seconds"] and [row[0] for row in table[1:]] == ["red", "green"]
    assert done.err.splitlines()[0].startswith("1 of 2: channel red")
    assert "wrote brightness.sweep/sweep.csv" in done.err
    assert {path.name for path in folder.glob("*.json")} == {
        "sweep.json",
        "photo.channel=red.brightness.json",
        "photo.channel=green.brightness.json",
    }

    more = ["missing.png", "--channel", "red,green", "--json", "--quiet"]
    told = cnnkit("sweep", "brightness", picture, *more, sites=(acme,))
    each = [json.loads(line) for line in told.out.splitlines()]
    assert told.code == 1 and [("error" in cell, cell["channel"]) for cell in each] == [
        (False, "red"),
        (True, "red"),
        (False, "green"),
        (True, "green"),
    ]
    assert told.err.splitlines() == [
        f"error: source missing, channel {channel}: there is no file 'missing.png'"
        for channel in ("red", "green")
    ]


def test_wrong_requests(cnnkit: Run, acme: Path, picture: Path) -> None:
    for code, said, arguments in [
        (2, "--channel takes", ["brightness", picture, "--channel", "red,purple"]),
        (2, "No such option: --chanel", ["brightness", picture, "--chanel", "red"]),
        (2, "Missing argument 'SOURCE'", ["brightness"]),
        (2, "'occlusoin'", ["occlusoin", picture]),
        (3, "there is no network 'nowhere'", ["occlusion", picture, "--model", "default,nowhere"]),
        (2, "does not fit into the network's input", ["occlusion", picture, "--patch", "400,500"]),
    ]:
        done = cnnkit("sweep", *arguments, sites=(acme,))
        assert done.code == code and said in done.err, (arguments, done)


def test_the_flag_that_is_given_last_goes_across(cnnkit: Run, acme: Path, picture: Path) -> None:
    patch, plain = ["--patch", "64,128"], ["--plain", "--no-plain"]
    for flags, first in (([*patch, *plain], "patch"), ([*plain, *patch], "plain")):
        done = cnnkit("sweep", "occlusion", picture, *flags, "-o", f"{first}/", "--threads", 1)
        assert done.code == 0 and done.out.split()[0] == first, done
        assert len(done.out.splitlines()) == 5


def test_completion_of_the_last_value(cnnkit: Run, acme: Path) -> None:
    def words(line: str) -> set[str]:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return set(cnnkit(sites=(acme,), _CNNKIT_COMPLETE="complete_bash", **asked).out.split())

    assert "occlusion" in words("cnnkit sweep occ")
    assert words("cnnkit sweep brightness --channel red,gr") == {"red,green"}
    assert words("cnnkit sweep activations --model acme-net,default --layers one;mix") == {
        "one;mix",
        "one;mix_relu",
    }
    assert words("cnnkit sweep classify --model default,acm") == {"default,acme-net"}


def test_ctrl_c_says_how_to_go_on(picture: Path, trouble: Path) -> None:
    command = [sys.executable, "-m", "cnnkit", "sweep", "slow", "photo.png", "--seed", "0,1"]
    child = subprocess.Popen(
        command, cwd=picture.parent, env=environment((trouble,)), stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None and child.stderr.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    _, told = child.communicate()
    assert child.returncode == 130
    assert told.splitlines() == ["0 of 2 are done; the same command goes on from there", "interrupted"]
