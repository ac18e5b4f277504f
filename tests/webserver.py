"""A web server for tests, with the faults of real ones."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Web:
    """What is served, how well, and what was asked.

    `breaks` and `statuses` are used up, one per request: bytes after which the connection is cut, and answers
    in place of the file.
    """

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    version: str = '"1"'
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    delay: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""
    sent: int = 0
    """Bytes of files, in all."""


@contextmanager
def serving() -> Iterator[Web]:
    """A server on this machine, for as long as it is needed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = urlsplit(self.path).path, self.headers.get("Range")
            web.asked.append((path, asked))
            time.sleep(web.delay)
            status = web.statuses.pop(0) if web.statuses else 200 if path in web.files else 404
            if status != 200:
                self.send_error(status)
                return
            data, start = web.files[path], 0
            if asked and web.ranges and self.headers.get("If-Range") == web.version:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", web.version)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + web.breaks.pop(0) if web.breaks else len(data)
            web.sent += len(data[start:end])  # before who asked can have it all
            with suppress(ConnectionError):  # who asked may be gone
                self.wfile.write(data[start:end])

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = Web(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
