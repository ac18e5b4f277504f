"""A file over HTTP: resumed where it broke off, tried again when that may help, else a sentence.

Beside the target lie, while they are needed, `TARGET.part` (what came so far) and `TARGET.part.json` (which
version of the file that is).
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cnnkit.errors import ModelError, OutputError

if TYPE_CHECKING:
    from requests import Response

    from cnnkit.host.context import Reporter

CONNECTING, READING = 15.0, 30.0
"""Seconds without an answer after which a server is given up."""
TRIES = 5
"""In a row that bring nothing new."""
PAUSE = 1.0
"""Seconds before the second try; twice as long before each one after."""
CHUNK = 1 << 16
"""Bytes that are written at a time: what may have to be sent twice when a connection breaks."""


def offline() -> bool:
    """Whether `CNNKIT_OFFLINE` forbids to ask the network."""
    return os.environ.get("CNNKIT_OFFLINE", "") not in ("", "0")


class _Broken(Exception):
    """A connection that failed, for a reason that may pass; its text goes on after the address."""


@dataclass(frozen=True)
class _Part:
    """What came so far of a file."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _notes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def begin(self, address: str, response: "Response") -> None:
        """Nothing has come so far; this is how the server calls this version of the file."""
        self.forget()
        tag = response.headers.get("ETag", "")
        version = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        self._notes.write_text(json.dumps([address, version]))

    def version(self, address: str) -> str | None:
        """How the server calls the version that the part is of, where it said so and the part is its own."""
        try:
            begun, version = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return None
        return version if begun == address and self.size else None

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def complete(self, output: str) -> None:
        os.replace(self.path, output)
        self.forget()


class Downloader:
    """For pooch: brings what is at an address to a file, going on from the part beside the target."""

    def __init__(self, target: Path, reporter: "Reporter") -> None:
        self.name = target.name
        self.part = _Part(target.with_name(f"{target.name}.part"))
        self.reporter = reporter
        self.received = 0
        """The bytes of the whole file."""

    def __call__(self, address: str, output: str, pooch: Any) -> None:
        if "://" in address and offline():
            raise ModelError(f"CNNKIT_OFFLINE is set, so {address} is not asked.")
        self.reporter.say(f"fetching {address}")
        if "://" in address:
            try:
                self._persist(address)
            except KeyboardInterrupt:
                self.reporter.say(f"stopped.{self._kept}")
                raise
            self.part.complete(output)
        elif Path(address).is_file():
            shutil.copyfile(address, output)
        else:
            raise ModelError(f"the mirror has no {address}.")
        self.received = Path(output).stat().st_size

    @property
    def _kept(self) -> str:
        """What is left for the next time, as a sentence to append."""
        size = self.part.size / 1e6
        return f" {size:.1f} MB of {self.name} are kept; the next pull goes on from there." if size else ""

    def _persist(self, address: str) -> None:
        """Try until the part is the whole file, or until trying brings nothing new."""
        furthest, failures = self.part.size, 0
        while True:
            try:
                return self._attempt(address)
            except _Broken as broken:
                failures = 1 if self.part.size > furthest else failures + 1
                furthest = max(furthest, self.part.size)
                if failures == TRIES:
                    tried = f"{address} was tried {TRIES} times: {broken}; try again later."
                    raise ModelError(f"{tried}{self._kept}") from None
                self.reporter.say(f"{self.name}: {broken}, after {self.part.size / 1e6:.1f} MB; trying again")
                time.sleep(PAUSE * 2 ** (failures - 1))

    def _attempt(self, address: str) -> None:
        import requests

        version = self.part.version(address)
        headers = {"Accept-Encoding": "identity"}
        if version:
            headers |= {"Range": f"bytes={self.part.size}-", "If-Range": version}
        try:
            with requests.get(
                address, headers=headers, stream=True, timeout=(CONNECTING, READING)
            ) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    self.part.forget()
                    raise _Broken("the server has no such part, so it begins anew")
                _accept(address, response)
                self._receive(address, response)
        except requests.RequestException as error:
            raise _told(address, error) from None

    def _receive(self, address: str, response: "Response") -> None:
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if response.status_code != 206 or start != str(self.part.size):
            if response.status_code == 206:
                self.part.forget()
                raise _Broken("the server sent another part than was asked for, so it begins anew")
            self.part.begin(address, response)
        done, length = self.part.size, response.headers.get("Content-Length")
        total = done + int(length) if length else None
        free = shutil.disk_usage(self.part.path.parent).free
        if total and total - done > free:
            raise OutputError(
                f"{self.name} needs {(total - done) / 1e6:.0f} MB in {self.part.path.parent}, where "
                f"{free / 1e6:.0f} MB are free; make room, or set CNNKIT_HOME to a folder on another disk."
            )
        chunks = response.iter_content(CHUNK)
        with self.part.path.open("ab") as file:
            for chunk in self.reporter.transfer(chunks, done, total, self.name):
                file.write(chunk)
        if total and self.part.size != total:
            raise _Broken(f"the connection ended at {self.part.size} of {total} bytes")


def _accept(address: str, response: "Response") -> None:
    """Raise what an answer without the file means."""
    code, said = response.status_code, f"{response.status_code} {response.reason or ''}".strip()
    if code in (200, 206):
        return
    if code >= 500 or code in (408, 425, 429):
        raise _Broken(f"the server answers {said}")
    if code in (404, 410):
        raise ModelError(f"there is no file at {address} (the server answers {said}); it may have moved.")
    if code == 407:
        raise ModelError(f"the proxy{_proxy(address)} wants a name and a password before {address} ({said}).")
    raise ModelError(f"{address} may not be had: the server answers {said}.")


def _told(address: str, error: Exception) -> Exception:
    """What a failed request means: `_Broken` when trying again may help."""
    import requests

    chain, host = repr(error), urlsplit(address).netloc
    if isinstance(error, requests.exceptions.ProxyError):
        return ModelError(f"{address} cannot be had through the proxy{_proxy(address)}; check that setting.")
    if isinstance(error, requests.exceptions.SSLError) and "certificate" in chain.lower():
        return ModelError(
            f"the certificate of {host} was not accepted, so {address} was not fetched; where a proxy puts "
            "its own in place, name the file of its certificates in REQUESTS_CA_BUNDLE."
        )
    if "NameResolutionError" in chain:
        return ModelError(
            f"{address} cannot be asked: the name {host} is not known; is this machine on the network?"
        )
    if isinstance(error, requests.ConnectTimeout):
        return ModelError(
            f"{address} cannot be asked: {host} does not answer; is a proxy needed (HTTPS_PROXY)?"
        )
    if isinstance(error, requests.Timeout) or "timed out" in chain:
        return _Broken("the server did not answer in time")
    if "NewConnectionError" in chain:
        return ModelError(
            f"{address} cannot be asked: nobody answers at {host}; is this machine on the network?"
        )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return ModelError(f"{address} is no address that can be asked: {error}.")
    return _Broken("the connection broke")


def _proxy(address: str) -> str:
    """The setting that names the proxy for an address, as a word to follow "the proxy"."""
    scheme = urlsplit(address).scheme
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if os.environ.get(name):
            return f" {urlsplit(os.environ[name]).netloc.rpartition('@')[2]} that {name} names"
    return ""
