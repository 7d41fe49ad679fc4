"""Headless Chromium through its DevTools protocol, over two pipes: the standard library is enough.

Chromium reads messages from file descriptor 3 and writes them to 4, each a JSON that ends in a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests run as root in containers
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but this machine
)


class Page:
    """A tab: commands to it, and the events that it sent meanwhile."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._held, self._last = write, read, b"", 0
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: object) -> dict:
        """Answer to a command; RuntimeError if Chromium refuses it."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next(time.monotonic() + 60)
            if answer.get("id") == self._last:
                break
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def run(self, expression: str) -> object:
        """Value of a JavaScript expression in the page, awaited if it is a promise."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description"))
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression holds; TimeoutError with what the page says if it never does."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: {self.run('document.body.innerText')}")
            time.sleep(0.05)

    def size(self, width: int, height: int, *, scale: float = 1) -> None:
        """Make the tab that large, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.call("Emulation.setDeviceMetricsOverride", mobile=False, **metrics)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def requested(self) -> list[str]:
        """Addresses that were asked for so far, in order."""
        self.run("0")  # events that came until now
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def _next(self, end: float) -> dict:
        while b"\0" not in self._held:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium is gone")
            self._held += data
        line, self._held = self._held.split(b"\0", 1)
        return json.loads(line)


START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # the pipes were made in this order, so that neither takes the other's place


@contextmanager
def browsing(chromium: str, profile: Path) -> Iterator[Page]:
    """A tab of a fresh Chromium, which is gone when the block ends."""
    to_child, from_us = os.pipe()
    to_us, from_child = os.pipe()
    command = [chromium, *FLAGS, f"--user-data-dir={profile}"]
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", START, str(to_child), str(from_child), *command],
        pass_fds=(to_child, from_child),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_child)
    os.close(from_child)
    try:
        yield Page(from_us, to_us)
    finally:
        child.terminate()
        child.wait(20)
        os.close(from_us)
        os.close(to_us)
