"""Fetching over bad lines: what arrives is whole and right, or it is a sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import Said
from webserver import Web, serving

from cnnkit import CnnkitError, ModelError, OutputError, Source, UsageError
from cnnkit.host import transfer
from cnnkit.host.download import bring, fetch, place

DATA = np.random.default_rng(0).bytes(1_000_003)
PATH = "/a/weights.h5"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    """A server with the file, an empty CNNKIT_HOME, and no settings of the caller's."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("CNNKIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    with serving() as web:
        web.files[PATH] = DATA
        yield web


def source(web: Web, data: bytes = DATA, algorithm: str = "md5") -> Source:
    checksum = {"md5": md5, "sha256": sha256}[algorithm](data).hexdigest()
    return Source(web.address + PATH, f"{algorithm}:{checksum}", len(data))


def left(home: Path) -> set[str]:
    """The files there, but for locks."""
    return {path.name for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_fetched_once(web: Web, tmp_path: Path, algorithm: str) -> None:
    said = Said()
    for _ in range(2):
        found = fetch(source(web, algorithm=algorithm), said, "--from")
        assert found.path.read_bytes() == DATA and found.published
        assert found.path == place(tmp_path / "home" / "downloads", web.address + PATH)
    assert web.asked == [(PATH, None)] and web.sent == len(DATA)
    assert said.lines == [f"fetching {web.address}{PATH}"]
    assert left(tmp_path) == {"weights.h5"}
    assert str(found) == f"{web.address}{PATH} ({found.checksum})"


def test_a_broken_connection_goes_on_from_the_part(web: Web, tmp_path: Path) -> None:
    web.breaks = [5 * transfer.CHUNK, 0, 0, 4 * transfer.CHUNK + 99]
    said = Said()
    assert fetch(source(web), said, "--from").path.read_bytes() == DATA
    assert web.sent == len(DATA) + 99  # of what was sent only the part of a chunk was sent twice
    first, *others = [asked for _, asked in web.asked]
    assert first is None and others == [f"bytes={5 * transfer.CHUNK}-"] * 3 + [f"bytes={9 * transfer.CHUNK}-"]
    assert "the connection broke, after 0.3 MB; trying again" in said.lines[1]
    assert left(tmp_path) == {"weights.h5"}


def test_an_interrupted_pull_is_gone_on_with_by_the_next(web: Web, tmp_path: Path) -> None:
    class Stopped(Said):
        def transfer(self, chunks: Any, done: int, total: int | None, label: str) -> Any:
            assert (done, total, label) == (0, len(DATA), "weights.h5")
            yield next(iter(chunks))
            raise KeyboardInterrupt

    said = Stopped()
    with pytest.raises(KeyboardInterrupt):
        fetch(source(web), said, "--from")
    assert said.lines[-1] == ("stopped. 0.1 MB of weights.h5 are kept; the next pull goes on from there.")
    assert left(tmp_path) == {"weights.h5.part", "weights.h5.part.json"}
    web.asked.clear()
    assert fetch(source(web), Said(), "--from").path.read_bytes() == DATA
    assert web.asked == [(PATH, f"bytes={transfer.CHUNK}-")]
    assert left(tmp_path) == {"weights.h5"}


def test_a_server_that_always_breaks_is_given_up(web: Web, tmp_path: Path) -> None:
    web.breaks = [100_000] + [0] * 20
    with pytest.raises(
        ModelError, match=r"was tried 5 times: the connection broke; try again later\. 0\.1 MB of"
    ):
        fetch(source(web), Said(), "--from")
    assert len(web.asked) == 5 and "weights.h5" not in left(tmp_path)
    web.breaks, web.ranges = [100_000] * 20, False  # and one that begins anew each time
    with pytest.raises(ModelError, match="was tried 5 times"):
        fetch(source(web), Said(), "--from")


def test_what_cannot_be_gone_on_with_begins_anew(web: Web) -> None:
    web.ranges, web.breaks = False, [600_000]
    assert fetch(source(web), Said(), "--from").path.read_bytes() == DATA
    assert [asked for _, asked in web.asked] == [None, "bytes=589824-"] and web.sent == 600_000 + len(DATA)


def test_a_file_that_changes_meanwhile_is_fetched_whole(web: Web) -> None:
    class Changing(Said):
        def say(self, text: str) -> None:
            if "trying again" in text:
                web.version, web.files[PATH] = '"2"', DATA[::-1]

    web.breaks = [600_000]
    assert fetch(source(web, DATA[::-1]), Changing(), "--from").path.read_bytes() == DATA[::-1]


def test_a_part_that_the_server_does_not_know(web: Web, tmp_path: Path) -> None:
    part = place(tmp_path / "home" / "downloads", f"{web.address}{PATH}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA + b"more")
    part.with_name("weights.h5.part.json").write_text(f'["{web.address}{PATH}", "\\"1\\""]')
    assert fetch(source(web), Said(), "--from").path.read_bytes() == DATA
    assert [asked for _, asked in web.asked] == [f"bytes={len(DATA) + 4}-", None]


def test_a_wrong_checksum_leaves_nothing(web: Web, tmp_path: Path) -> None:
    wanted = source(web)
    web.files[PATH] = b"Please log in."
    said = r"\(14 bytes\) is another file and was removed: it has not the checksum md5:\w+ that is published"
    with pytest.raises(ModelError, match=said):
        fetch(wanted, Said(), "--from")
    assert left(tmp_path) == set()
    web.files[PATH] = DATA
    assert fetch(wanted, Said(), "--from").path.read_bytes() == DATA


def test_a_checksum_that_nobody_publishes(web: Web, tmp_path: Path) -> None:
    said, loose = Said(), Source(web.address + PATH)
    found = fetch(loose, said, "--from")
    checksum = f"sha256:{sha256(DATA).hexdigest()}"
    assert (found.checksum, found.published) == (checksum, False)
    assert str(found).endswith(", which nobody publishes)")
    recorded = found.path.with_name("weights.h5.checksum")
    assert said.lines[-1] == (
        f"nobody publishes a checksum of {loose.address}; the one of what came, {checksum}, is now in "
        f"{recorded}, and later downloads are compared with it"
    )
    found.path.unlink()
    web.files[PATH] = DATA[::-1]
    with pytest.raises(
        ModelError, match=f"at the first download it had {checksum}; if the change is right, remove"
    ):
        fetch(loose, Said(), "--from")
    assert left(tmp_path) == {"weights.h5.checksum"}
    recorded.unlink()
    assert fetch(loose, Said(), "--from").path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize(
    ("status", "asked", "said"),
    [
        (
            404,
            1,
            r"there is no file at .*weights\.h5 \(the server answers 404 Not Found\); it may have moved",
        ),
        (403, 1, r"may not be had: the server answers 403 Forbidden"),
        (500, 5, r"was tried 5 times: the server answers 500 Internal Server Error; try again later"),
    ],
)
def test_refusals(web: Web, tmp_path: Path, status: int, asked: int, said: str) -> None:
    web.statuses = [status] * 9
    with pytest.raises(ModelError, match=said) as error:
        fetch(source(web), Said(), "--from")
    assert "\n" not in str(error.value) and len(web.asked) == asked and left(tmp_path) == set()


def test_a_server_that_recovers(web: Web) -> None:
    web.statuses = [500, 503]
    assert fetch(source(web), Said(), "--from").path.read_bytes() == DATA


def test_no_network(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: str) -> str:
        with pytest.raises(ModelError) as error:
            fetch(Source(address, "md5:0"), Said(), "--from")
        return str(error.value)

    closed = "http://127.0.0.1:9/x.h5"
    assert refused(closed).startswith(f"{closed} cannot be asked: nobody answers at 127.0.0.1:9")
    assert "the name nowhere.invalid is not known" in refused("http://nowhere.invalid/x.h5")
    assert "the connection broke" in refused(f"https://{web.address.partition('//')[2]}/x.h5")
    monkeypatch.setattr(transfer, "READING", 0.05)
    web.delay = 0.5
    assert "the server did not answer in time" in refused(web.address + PATH)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    assert "through the proxy 127.0.0.1:9 that HTTP_PROXY names" in refused("http://nowhere.invalid/x.h5")
    assert "secret" not in refused("http://nowhere.invalid/x.h5")


def test_a_proxy(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks a proxy names the whole address."""
    monkeypatch.setenv("HTTP_PROXY", web.address)
    elsewhere = Source("http://nowhere.invalid" + PATH, source(web).checksum)
    assert fetch(elsewhere, Said(), "--from").path.read_bytes() == DATA
    web.statuses = [407]
    with pytest.raises(ModelError, match="that HTTP_PROXY names wants a name and a password"):
        fetch(Source("http://nowhere.invalid/other", "md5:0"), Said(), "--from")


def test_offline(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNKIT_OFFLINE", "1")
    monkeypatch.setenv("CNNKIT_MIRROR", web.address)
    with pytest.raises(
        ModelError, match=r"is not asked\. .*: bring weights\.h5 \(1\.0 MB\) and say --from FILE"
    ):
        fetch(source(web), Said(), "--from")
    assert web.asked == []
    monkeypatch.setenv("CNNKIT_OFFLINE", "0")
    monkeypatch.setenv("CNNKIT_MIRROR", "")
    found = fetch(source(web), Said(), "--from")
    monkeypatch.setenv("CNNKIT_OFFLINE", "1")
    assert fetch(source(web), Said(), "--from") == found  # it is there


def test_mirrors(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Source("http://nowhere.invalid" + PATH, source(web).checksum)
    web.files = {f"/mirror/nowhere.invalid{PATH}": DATA}
    monkeypatch.setenv("CNNKIT_MIRROR", f"{tmp_path}/empty, {web.address}/mirror/")
    assert fetch(wanted, Said(), "--from").path.read_bytes() == DATA
    assert len(web.asked) == 1

    folder = tmp_path / "mirror" / "nowhere.invalid" / "a"
    folder.mkdir(parents=True)
    (folder / "weights.h5").write_bytes(DATA)
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("CNNKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("CNNKIT_OFFLINE", "1")
    assert fetch(wanted, Said(), "--from").path.read_bytes() == DATA
    assert len(web.asked) == 1 and (folder / "weights.h5").exists()


def test_the_origin_is_asked_when_mirrors_fail(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = web.address.partition("//")[2]
    web.files[f"/wrong/{host}{PATH}"] = b"something else"
    monkeypatch.setenv("CNNKIT_MIRROR", f"{tmp_path}/none,{web.address}/none,{web.address}/wrong")
    assert fetch(source(web), Said(), "--from").path.read_bytes() == DATA
    assert [path.partition("/")[2].partition("/")[0] for path, _ in web.asked] == ["none", "wrong", "a"]
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path / "other"))
    del web.files[PATH]
    with pytest.raises(
        ModelError, match=r"the mirror has no .*there is no file.*is another file.*there is no file"
    ):
        fetch(source(web), Said(), "--from")


def test_too_little_room(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 400_000

    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(
        OutputError, match=r"weights\.h5 needs 1 MB in .* where 0 MB are free; make room, or set CNNKIT_HOME"
    ):
        fetch(source(web), Said(), "--from")
    assert "weights.h5" not in left(tmp_path)


CHILD = """
import resource, sys
from cnnkit import CnnkitError, Source
from cnnkit.host.context import LogReporter
from cnnkit.host.download import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
try:
    fetch(Source(*sys.argv[1:]), LogReporter(), "--from")
except CnnkitError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk(web: Web, tmp_path: Path) -> None:
    """A file of more than 500,000 bytes cannot be written, as on a disk that is full."""
    wanted = source(web)
    command = [sys.executable, "-c", CHILD, wanted.address, wanted.checksum]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("OutputError the disk is full, so ") and done.stderr == "", done
    assert "weights.h5" not in left(tmp_path)
    sent = web.sent
    assert fetch(wanted, Said(), "--from").path.read_bytes() == DATA
    assert web.sent - sent == len(DATA) - 500_000


def test_a_file_that_the_user_brings(web: Web, tmp_path: Path) -> None:
    mine = tmp_path / "mine.h5"
    mine.write_bytes(DATA)
    assert bring(mine, source(web)).origin == web.address + PATH
    unknown = bring(mine, Source(web.address + PATH))
    assert (unknown.origin, unknown.published) == ("mine.h5", False)
    assert unknown.checksum == f"sha256:{sha256(DATA).hexdigest()}"
    for error, said, file in [
        (UsageError, "there is no file", tmp_path / "nothing.h5"),
        (ModelError, r"that has the checksum md5:\w+, and this md5:\w+", Path(__file__)),
    ]:
        with pytest.raises(error, match=said):
            bring(file, source(web))
    assert issubclass(error, CnnkitError) and web.asked == []
