"""The plugins that `plugins new` writes; tests/cli installs and runs one of each kind."""

from pathlib import Path

import pytest

from cnnkit import OutputError, UsageError
from cnnkit.host.template import KINDS, write_plugin


@pytest.mark.parametrize(
    "name, kind, package",
    [
        ("class", "operation", "cnnkit-class"),
        ("np", "operation", "cnnkit-np"),
        ("soft-edges", "operation", "cnnkit-soft-edges"),
        ("class", "model", "cnnkit-class"),
        ("l1-of-l2", "loss", "cnnkit-l1-of-l2"),
        ("com.acme.Swirl", "gradient-rule", "cnnkit-swirl"),
        ("Acme.LeftTurn", "gradient-rule", "cnnkit-left-turn"),
        ("MaxUnpool", "gradient-rule", "cnnkit-max-unpool"),
        ("If", "gradient-rule", "cnnkit-if"),
    ],
)
def test_any_name(
    name: str, kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = write_plugin(name, kind=kind)
    module = package.replace("-", "_")
    assert written.folder == Path(package)
    assert {str(path.relative_to(written.folder)) for path in written.files} == {
        *("pyproject.toml", "README.md", "LICENSE", ".gitignore", f"{module}.py"),
        f"tests/test_{module.removeprefix('cnnkit_')}.py",
    }
    for path in written.files:
        text = path.read_text("utf-8")
        assert "@" not in text.replace("you@example.org", "").replace("@dataclass", "").replace(
            "@hookimpl", ""
        ).replace("@pytest", "").replace(" @ ", "")
        if path.suffix == ".py":
            compile(text, path, "exec")
            assert "def np(" not in text
    assert f'[project.entry-points."{KINDS[kind].group}"]\n"{name}" = "{module}"' in (
        written.folder / "pyproject.toml"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    "operator, arguments",
    [
        ("MaxUnpool", "x: Any, i: Any, output_shape: Any = None"),
        ("Concat", "*inputs: Any"),
        ("DeformConv", "x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None"),
    ],
)
def test_the_rule_of_an_operator_of_onnx_is_begun(operator: str, arguments: str, tmp_path: Path) -> None:
    written = write_plugin(operator, str(tmp_path / "new"), "gradient-rule")
    assert written.unfinished
    (module,) = written.folder.glob("*.py")
    assert f"def rule(op: Any, node: Any, dy: Any, {arguments}) -> " in module.read_text("utf-8")


@pytest.mark.parametrize("kind", ["operation", "model", "loss"])
@pytest.mark.parametrize("name", ["Edges", "two words", "", "-x", "a_b", "1a", "a--b", "ä", "a.b"])
def test_no_name(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lower-case words joined by hyphens, such as"):
        write_plugin(name, str(tmp_path / "new"), kind)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name, kind, said",
    [
        ("swirl", "gradient-rule", "an operator's type is written like GridSample"),
        ("com.acme.swirl", "gradient-rule", "one of your own like com.acme.Swirl, not 'com.acme.swirl'"),
        ("GridSampel", "gradient-rule", "ONNX has no operator 'GridSampel'. Did you mean 'GridSample'?"),
        ("Constant", "gradient-rule", "ONNX's operator Constant has no inputs, so there is no gradient"),
        ("occlusion", "operation", "cnnkit itself has 'occlusion'"),
        ("default", "model", "cnnkit itself has 'default'"),
        ("edges", "modle", "not 'modle'. Did you mean 'model'?"),
    ],
)
def test_refusals(name: str, kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write_plugin(name, str(tmp_path / "new"), kind)
    assert said in str(refused.value)


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(OutputError, match="exists and is not empty"):
            write_plugin("edges", str(taken))
    (tmp_path / "empty").mkdir()
    assert write_plugin("edges", str(tmp_path / "empty")).folder == tmp_path / "empty"
