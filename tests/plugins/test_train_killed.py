"""Training killed at random moments, in all three ways, and resumed: it ends where the unbroken run ends."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from pictured_classes import pictured_classes
from small_network import small_network

RUNS = int(os.environ.get("CNNKIT_TEST_KILLS", "6"))
CHILD = """
import cnnkit.plugins.train as train
from cnnkit.cli.main import main
train.CHECKPOINT = 0.0  # behind each step
main()
"""
WAYS = {
    "frozen": "--model small.onnx --epochs 6",
    "fine-tuned": "--model small.onnx --way fine-tuned --head-epochs 3 --epochs 4 --rate 0.001 --flip",
    "scratch": "--way scratch --input-size 32 --epochs 3 --rotation 10 --mixup 0.2 --average 0.9",
}


class Runs:
    """Runs on one folder of pictures, into folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pictured_classes(folder / "things")
        small_network("nchw", (24, 24)).save(folder / "small.onnx")

    def start(self, name: str, way: str, *more: str) -> subprocess.Popen[bytes]:
        given = f"run train things {WAYS[way]} --batch 5 --threads 1 --output {name}/ --quiet"
        command = [sys.executable, "-c", CHILD, *given.split(), *more]
        return subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE)

    def finish(self, name: str, way: str, *more: str) -> None:
        with self.start(name, way, *more) as child:
            _, told = child.communicate()
        assert child.returncode == 0, told.decode()

    def networks(self, name: str) -> list[dict[str, bytes]]:
        """The weights of the best and of the last one."""
        found = []
        for ending in ("onnx", "last.onnx"):
            proto = onnx.load(self.folder / name / f"things.train.{ending}")
            found.append({tensor.name: tensor.raw_data for tensor in proto.graph.initializer})
        return found

    def history(self, name: str) -> list[dict[str, str]]:
        """But for the time that it took."""
        text = (self.folder / name / "things.train.history.csv").read_text()
        timed = {"seconds", "pictures_per_second"}
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(text.splitlines())]

    def place(self, name: str) -> str:
        """Where the checkpoint is, "" where there is none."""
        for path in (self.folder / name).glob("*.checkpoint.npz"):
            with np.load(path) as saved:
                return f"{saved['phase']} {str(saved['course'])[-200:]}"
        return ""


@pytest.mark.slow
def test_a_killed_training_ends_where_it_would_have(tmp_path: Path) -> None:
    chance = random.Random(0)
    runs = Runs(tmp_path)
    seconds = {}
    for way in WAYS:
        begun = time.monotonic()
        runs.finish(way, way)
        seconds[way] = time.monotonic() - begun
    for number in range(RUNS):
        name, way = f"run{number}", list(WAYS)[number % len(WAYS)]
        child = runs.start(name, way)
        while not runs.place(name) and child.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3 * seconds[way]))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        runs.finish(name, way, "--resume", "--force")
        assert runs.networks(name) == runs.networks(way), f"{way}, killed in run {number}"
        assert runs.history(name) == runs.history(way)
        assert not list((tmp_path / name).glob("*checkpoint*"))
