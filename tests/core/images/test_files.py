"""Writing is all or nothing, and every failure is one sentence."""

import os
import stat
from pathlib import Path

import pytest

from cnnkit.errors import ImageError, OutputError
from cnnkit.images import files
from cnnkit.images.files import read_picture_file, write_atomically


def test_written_bytes_come_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.png", b"first")
    write_atomically(tmp_path / "a.png", b"second")
    assert read_picture_file(str(tmp_path / "a.png")) == b"second"
    assert os.listdir(tmp_path) == ["a.png"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interruption_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_atomically(Path(os.devnull), b"x")
    assert not stat.S_ISREG(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("absent/a.png", "its folder does not exist"), (".", "directory"), ("a" * 300, "name too long")],
)
def test_what_cannot_be_written(tmp_path: Path, path: str, sentence: str) -> None:
    with pytest.raises(OutputError, match=f"(?i){sentence}"):
        write_atomically(tmp_path / path, b"x")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"123456789")
    monkeypatch.setattr(files, "LARGEST_FILE", 8)
    for path, sentence in [
        ("absent", "there is no file"),
        (".", "is a folder, not a picture"),
        ("empty", "is empty"),
        ("large", "the limit for a picture file"),
        ("null\0byte", "cannot be read"),
        ("a" * 300, "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=sentence):
            read_picture_file(os.path.join(tmp_path, path))


def test_permissions_that_forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:  # chmod would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="'secret' may not be read: its permissions forbid it"):
        read_picture_file("secret")
