"""A real browser, driven through its debugging pipe: no package is needed for that, and no port is opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from time import monotonic
from typing import Any

SECONDS = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    *("--headless=new", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--remote-debugging-pipe", "--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--force-color-profile=srgb", "--font-render-hinting=none"),
)
# Chromium reads commands from file 3 and writes answers to file 4, whatever these were before.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for number, end in enumerate(ends, start=3):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
# What the browser asks of itself when it shows a file, and a page that is made of text.
OWN = ("data:", "blob:", "chrome:", "devtools:", "about:")


def find_browser() -> str | None:
    """Return the path of a Chromium, or None; ROUTILUX_CHROMIUM names another one."""
    return os.environ.get("ROUTILUX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, str(commands_out), str(answers_in)),
                *(path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(commands_out, answers_in),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        try:
            yield Browser(commands_in, answers_out)
        finally:
            os.close(commands_in)
            os.close(answers_out)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


class Browser:
    """Speaks the DevTools protocol."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        deadline = monotonic() + SECONDS
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._answers], [], [], max(0.0, deadline - monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._answers, 1 << 20)
            assert read, "the browser has gone"
            self._buffer += read
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.events.append(message)
        return message

    def page(self, width: int = 1600, height: int = 1000, dark: bool = False, offline: bool = True) -> Page:
        """Return a new page of this size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, width, height, dark, offline)


class Page:
    """One page: what it shows, and what it asks for and says on the console."""

    def __init__(self, owner: Browser, session: str, width: int, height: int, dark: bool, offline: bool) -> None:
        self._owner, self._session = owner, session
        self._opened: set[str] = set()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        self.look("dark" if dark else "light")
        self.resize(width, height)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._owner.call(method, self._session, **params)

    def look(self, scheme: str, media: str = "") -> None:
        self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def resize(self, width: int, height: int = 1000) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, place: Path | str) -> int:
        """Open a report, wait until it shows everything, and return the milliseconds that took."""
        url = place if isinstance(place, str) else place.as_uri()
        self._opened.add(url)
        self.call("Page.navigate", url=url)
        return int(self.wait("document.body && document.body.dataset.ready"))

    def wait(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        return self.run(
            f"new Promise((done) => {{ const look = () => {{ const value = {expression}; "
            "if (value) done(value); else setTimeout(look, 5); }; look(); })"
        )

    def run(self, expression: str) -> Any:
        """Return the value of an expression, or of the promise that it is."""
        made = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def frame(self) -> None:
        """Wait until what was changed has been painted."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, **({"text": text} if text and kind == "keyDown" else {})
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write what is shown, or all of the page, as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(b64decode(data))

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for, but for the page's own file."""
        asked = [
            event["params"]["request"]["url"]
            for event in self._owner.events
            if event["method"] == "Network.requestWillBeSent" and event.get("sessionId") == self._session
        ]
        return [url for url in asked if not url.startswith(OWN) and url not in self._opened]

    @property
    def console(self) -> list[str]:
        """What was said on the console, by the page or the browser, and what was raised."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [
            json.dumps(event["params"])[:500]
            for event in self._owner.events
            if event["method"] in kinds and event.get("sessionId") == self._session
        ]
