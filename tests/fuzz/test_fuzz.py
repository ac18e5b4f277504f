"""No damaged file makes the command line crash, hang, die or leave half an output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")


def fuzz(kind: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    """Exit codes and how often each was met; asserts that nothing went wrong."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CNNKIT_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, DRIVER, kind, str(count), str(seed), folder],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert not found["wrong"], json.dumps(found["wrong"][:5], indent=1)
    return {code: met for code, met in found["codes"].items()}


@pytest.mark.parametrize(("kind", "refused"), [("pictures", "1"), ("networks", "3")])
def test_a_few_damaged_files(kind: str, refused: str, tmp_path: Path) -> None:
    codes = fuzz(kind, 60, seed=1, folder=tmp_path)
    assert codes[refused] > 20


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count", "refused"), [("pictures", 2000, "1"), ("networks", 500, "3")])
def test_many_damaged_files(kind: str, count: int, refused: str, tmp_path: Path) -> None:
    codes = fuzz(kind, count, seed=2, folder=tmp_path)
    assert codes[refused] > count / 4 and codes["0"] > count / 20
