"""Nothing stays behind: no thread, no file, no child, whatever way reading ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from streamprune.errors import SourceError
from streamprune.readers import open_source

if TYPE_CHECKING:
    from tests.readers.media import Media


def held(path: Path) -> tuple[int, int]:
    """Count our threads, and the open descriptors of ``path``."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("streamprune")]
    return len(threads), sum(file.path == str(path) for file in psutil.Process().open_files())


def test_leaving_early_releases_everything(media: Media) -> None:
    path = media("h264.mp4")
    with open_source(path) as source:
        for frame in source:
            if frame.index == 3:
                break
        running = [iter(source), iter(source.read(1.0))]
        assert [next(frames).index for frames in running] == [0, 0]
    assert held(path) == (0, 0)
    for frames in running:
        assert list(frames) == []


def test_forgetting_a_source_releases_everything(media: Media) -> None:
    path = media("h264.mp4")
    source = open_source(path)
    frames = iter(source)
    next(frames)
    del source, frames
    gc.collect()
    assert held(path) == (0, 0)


def test_an_error_while_using_frames_releases_everything(media: Media) -> None:
    path = media("h264.mp4")

    def use() -> None:
        with open_source(path) as source:
            for _ in source:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert held(path) == (0, 0)


def test_reading_many_times_holds_nothing(media: Media) -> None:
    def read(times: int) -> tuple[int, int]:
        for _ in range(times):
            with open_source(media("h264.mp4")) as source:
                next(iter(source))
                source.sample([1.0, 3.0])
        return psutil.Process().num_fds(), psutil.Process().num_threads()

    few, many = read(3), read(30)
    assert many[0] <= few[0]
    assert many[1] <= few[1]


def test_an_interrupt_stops_parallel_decoding(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamprune.readers.pyav_parallel.MIN_PARALLEL_PIXELS", 0)
    monkeypatch.setattr("streamprune.readers.pyav_parallel.BLIND_SEEK_SECONDS", 0.5)
    path, original = media("h264.mp4"), threading.Thread.join
    interrupted: list[bool] = []

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "streamprune-decode" and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        original(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with open_source(path, decode_threads=2) as source, pytest.raises(KeyboardInterrupt):
        source.sample([0.5, 1.5, 2.5, 3.5])
    assert held(path) == (0, 0)


def test_a_failing_worker_fails_the_call(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamprune.readers.pyav_targets import TargetReader

    def fail(reader: TargetReader, times: list[float]) -> None:
        raise SourceError("the disk went away")

    monkeypatch.setattr("streamprune.readers.pyav_parallel.MIN_PARALLEL_PIXELS", 0)
    monkeypatch.setattr("streamprune.readers.pyav_parallel.BLIND_SEEK_SECONDS", 0.5)
    monkeypatch.setattr(TargetReader, "fetch", fail)
    path = media("h264.mp4")
    with open_source(path, decode_threads=2) as source, pytest.raises(SourceError, match="went away"):
        source.sample([0.5, 1.5, 2.5, 3.5])
    assert held(path) == (0, 0)


READ_SLOWLY = """
import sys, time
from streamprune.readers import open_source
with open_source(sys.argv[1], backend=sys.argv[2], prefetch_bytes=1) as source:
    for frame in source:
        print("reading", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_users(backend: str, how: signal.Signals, media: Media) -> None:
    """Ctrl-C, and even kill -9, which gives nobody the time to tidy up."""
    if how == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends a child with its parent")
    command = [sys.executable, "-c", READ_SLOWLY, str(media("h264.mp4")), backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        children = psutil.Process(process.pid).children()
        assert len(children) == (backend == "decord")
        os.kill(process.pid, how)
        _, errors = process.communicate(timeout=20)
        assert (b"KeyboardInterrupt" in errors) == (how == signal.SIGINT)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
    finally:
        process.kill()
        process.communicate()
