"""A run that is killed at any moment: what lies on disk, and where it ends when it goes on."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_network import picture, small_network

ITERATIONS = 60
FEWEST_SNAPSHOTS = 45
"""Of an optimizer with several evaluations in an iteration."""
RUNS = int(os.environ.get("CNNKIT_TEST_KILLS", "5"))
CHILD = """
import cnnkit.plugins.synthesis.run as run
from cnnkit.cli.main import main
run.CHECKPOINT = 0.0  # behind each iteration
main()
"""
OPTIMIZERS = ("lbfgs-scipy", "lbfgs-torch", "adam")


class Runs:
    """Runs in folders of their own, with the pictures and the network beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        small_network().save(folder / "small.onnx")
        for name, size, seed in (("content", (32, 40), 0), ("style", (36, 28), 1)):
            Image.fromarray(picture(*size, seed).astype(np.uint8)).save(folder / f"{name}.png")

    def start(self, name: str, optimizer: str, *more: str) -> subprocess.Popen[bytes]:
        given = (
            f"run style-transfer content.png --style style.png --model small.onnx --preset gatys-code "
            f"--style-layers one,two --content-layers two --optimizer {optimizer} --size height:32 "
            f"--iterations {ITERATIONS} --snapshots 1 --threads 1 --output {name}/ --quiet"
        )
        command = [sys.executable, "-c", CHILD, *given.split(), *more]
        return subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE)

    def finish(self, name: str, optimizer: str, *more: str) -> None:
        with self.start(name, optimizer, *more) as child:
            _, told = child.communicate()
        assert child.returncode == 0, told.decode()

    def pictures(self, name: str) -> dict[str, np.ndarray]:
        """All that lie there, each read to its end."""
        found = {}
        for path in sorted((self.folder / name).glob("[!.]*.png")):
            with Image.open(path) as file:
                found[path.name] = np.asarray(file)
        return found

    def losses(self, name: str) -> list[dict[str, str]]:
        """The rows of the table but for the time that they took."""
        (path,) = (self.folder / name).glob("*losses.csv")
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return [{column: value for column, value in row.items() if column != "seconds"} for row in rows]

    def snapshots(self, name: str) -> list[int]:
        """The numbers of the iterations that are shown."""
        found = (self.folder / name).glob("*step[0-9]*.png")
        return sorted(int(path.stem.rpartition("step")[2]) for path in found)

    def checkpoint(self, name: str) -> int:
        """The iteration behind which the run would go on, 0 for none."""
        for path in (self.folder / name).glob("*.checkpoint.npz"):
            with np.load(path) as saved:
                return int(json.loads(str(saved["record"]))[-1][0])
        return 0


@pytest.mark.slow
def test_a_killed_run_loses_one_checkpoint_at_most_and_ends_where_it_would_have(tmp_path: Path) -> None:
    chance = random.Random(0)
    runs = Runs(tmp_path)
    for optimizer in OPTIMIZERS:
        runs.finish(optimizer, optimizer)
    for number in range(RUNS):
        name, optimizer = f"run{number}", OPTIMIZERS[number % len(OPTIMIZERS)]
        (tmp_path / name).mkdir()
        until = chance.randrange(FEWEST_SNAPSHOTS)
        child = runs.start(name, optimizer)
        while len(runs.snapshots(name)) < until and child.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.communicate()

        assert child.returncode == -signal.SIGKILL, "it ended before it was killed"
        shown = [0, *runs.snapshots(name)]
        assert sum("step" in path for path in runs.pictures(name)) == len(shown) - 1
        assert runs.checkpoint(name) in shown[-2:]
        runs.finish(name, optimizer, "--resume", "--force")
        expected, found = runs.pictures(optimizer), runs.pictures(name)
        assert found.keys() == expected.keys()
        for path, pixels in expected.items():
            assert "losses" in path or np.array_equal(found[path], pixels), f"{path}, killed at {shown[-1]}"
        assert runs.losses(name) == runs.losses(optimizer)
        assert not list((tmp_path / name).glob("*checkpoint*"))
