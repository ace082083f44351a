"""A headless Chromium with a camera that shows a clip, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import av
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

INSTALL = "needs Chromium: apt-get install chromium"
_SWITCHES = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)
_START_SECONDS = 20.0


def chromium_path() -> str | None:
    """The browser's program; None when it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def write_camera(frames: NDArray[np.uint8], fps: int, path: Path) -> Path:
    """Write frames (n, rows, cols, 3) as the raw video that Chromium's camera then shows again and again."""
    _, rows, cols, _ = frames.shape
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{cols} H{rows} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for image in frames:
            planes = av.VideoFrame.from_ndarray(image, format="rgb24").to_ndarray(format="yuv420p")
            file.write(b"FRAME\n" + planes.tobytes())
    return path


class Page:
    """One tab: evaluate, wait, photograph. ``errors`` are what its scripts and network complained about."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        id = next(self._ids)
        self._connection.send(json.dumps({"id": id, "method": method, "params": params}))
        while True:
            heard = json.loads(self._connection.recv(timeout=30))
            if heard.get("id") == id:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']}")
                result: dict[str, Any] = heard["result"]
                return result
            self._note(heard)

    def open(self, address: str) -> None:
        """Go there; the page is loaded when this returns."""
        self.call("Page.navigate", url=address)
        self.errors.clear()  # those of the page before
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, promises awaited."""
        given = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in given:
            raise RuntimeError(f"{expression}: {given['exceptionDetails']}")
        return given["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true; TimeoutError says what was waited for."""
        deadline = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s for {expression}; errors: {self.errors}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click what a CSS selector finds."""
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def submit(self, selector: str, text: str) -> None:
        """Write into an input and send its form."""
        self.value(
            f"(() => {{ const input = document.querySelector({json.dumps(selector)}); "
            f"input.value = {json.dumps(text)}; input.form.requestSubmit(); }})()"
        )

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def texts(self, selector: str) -> list[str]:
        """The text of everything a selector finds."""
        found: list[str] = self.value(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"
        )
        return found

    def photograph(self, path: Path, width: int, height: int, *, dark: bool, scale: float = 1.0) -> None:
        """Write a PNG of the page at a size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip
        time.sleep(0.5)  # the camera's next picture is drawn at the new size
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(str(details.get("exception", details).get("description", details)))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")


@contextmanager
def chromium(folder: Path, camera: Path | None, *, allow_camera: bool = True) -> Iterator[Page]:
    """Start a browser that keeps its files in ``folder``; it has ended at the end of the block."""
    path = chromium_path()
    assert path is not None, INSTALL
    switches = [*_SWITCHES, f"--user-data-dir={folder}"]
    if camera is not None:
        switches.append(f"--use-file-for-fake-video-capture={camera}")
    # the one gives the camera without asking, the other takes it away without asking
    switches.append(f"--{'use-fake-ui-for-media-stream' if allow_camera else 'deny-permission-prompts'}")
    if os.geteuid() == 0:
        switches.append("--no-sandbox")
    with subprocess.Popen(
        [path, *switches, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with connect(_debugger(folder, process), max_size=None, compression=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(20)


def _debugger(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the first tab's debugger, once the browser has written its port down."""
    deadline = time.monotonic() + _START_SECONDS
    written = folder / "DevToolsActivePort"
    while not (written.exists() and written.read_text().strip()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Chromium did not start (exit code {process.poll()})")
        time.sleep(0.02)
    port = written.read_text().splitlines()[0]
    while True:
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        if tabs:
            return str(tabs[0]["webSocketDebuggerUrl"])
        if time.monotonic() > deadline:
            raise RuntimeError("Chromium opened no tab")
        time.sleep(0.02)
