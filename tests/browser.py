"""A headless Chromium, driven by the DevTools protocol through a pipe: no driver and no package needed."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

COMPLAINTS = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}


@dataclass
class Browser:
    """One page. `requests` are the addresses that it asked for, `complaints` what its console showed."""

    asking: IO[bytes]
    answering: IO[bytes]
    session: str = ""
    asked: int = 0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.asking.write(json.dumps(message).encode() + b"\0")
        self.asking.flush()
        while (told := self._next()).get("id") != self.asked:
            pass
        assert "error" not in told, (method, told["error"])
        return dict(told["result"])

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """The page at that size of a screen, when it is loaded."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not self.loaded:
            self._next()

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, which may be a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key]
            )

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of all of the page."""
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        )

    def _next(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self.answering.read(1)) != b"\0":
            assert byte, "the browser is gone"
            content += byte
        told: dict[str, Any] = json.loads(content)
        method = told.get("method", "")
        self.loaded |= method == "Page.loadEventFired"
        if method in COMPLAINTS:
            self.complaints.append(json.dumps(told["params"])[:500])
        if method == "Network.requestWillBeSent":
            self.requests.append(told["params"]["request"]["url"])
        return told


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder of its own, for as long as it is needed."""
    assert CHROMIUM
    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
        "--disable-background-networking --disable-component-update --remote-debugging-pipe"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder}", "about:blank"]
    # The protocol's pipe is descriptors 3 and 4 of the browser.
    shell = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *command]
    pipe = subprocess.PIPE
    with subprocess.Popen(shell, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        assert child.stdin and child.stdout
        try:
            browser = Browser(child.stdin, child.stdout)
            (target,) = [
                one["targetId"]
                for one in browser.call("Target.getTargets")["targetInfos"]
                if one["type"] == "page"
            ]
            browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            for domain in ("Page", "Runtime", "Network", "Log"):
                browser.call(f"{domain}.enable")
            yield browser
        finally:
            child.terminate()
