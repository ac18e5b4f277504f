"""The plugin that `plugins new` writes; tests/cli installs and runs one."""

from pathlib import Path

import pytest

from cnnkit import OutputError, UsageError
from cnnkit.host.template import write_plugin


@pytest.mark.parametrize("name", ["class", "np", "soft-edges"])
def test_any_name(name: str, tmp_path: Path) -> None:
    written = write_plugin(name, str(tmp_path / "new"))
    module = f"cnnkit_{name.replace('-', '_')}.py"
    names = {str(path.relative_to(written.folder)) for path in written.files}
    assert names == {"pyproject.toml", "README.md", module, f"tests/test_{module.removeprefix('cnnkit_')}"}
    for path in written.files:
        text = path.read_text("utf-8")
        assert not any(word in text for word in ("@name@", "@module@", "@Class@"))
        if path.suffix == ".py":
            compile(text, path, "exec")
            assert "def np(" not in text


def test_refusals(tmp_path: Path) -> None:
    for name in ("Edges", "two words", "", "-x", "a_b", "1a", "a--b", "ä"):
        with pytest.raises(UsageError, match="lower-case words joined by hyphens"):
            write_plugin(name, str(tmp_path / "new"))
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(OutputError, match="exists and is not empty"):
            write_plugin("edges", str(taken))
    (tmp_path / "empty").mkdir()
    assert write_plugin("edges", str(tmp_path / "empty")).folder == tmp_path / "empty"
