"""The blocks of docs/export.md that need torch or TensorFlow run too, where these are installed."""

import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


def blocks(library: str) -> str:
    found = re.findall(rf"```py {library}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    return "\n".join(found)


@pytest.mark.oracle
def test_what_is_said_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():  # the exporters warn of their own age
        warnings.simplefilter("ignore")
        exec(compile(blocks("torch"), str(PAGE), "exec"), {"__name__": "page"})


@pytest.mark.oracle
@pytest.mark.slow
def test_what_is_said_of_keras(tmp_path: Path) -> None:
    if not all(map(importlib.util.find_spec, ("tensorflow", "keras", "tf2onnx"))):
        pytest.skip("needs tensorflow, keras and tf2onnx")
    program = "import keras\nkeras.utils.set_random_seed(0)\n" + blocks("keras")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
