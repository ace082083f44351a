"""Measure the readers: N uniform frames, native size, out of a long 720p H.264 file.

    python demos/reader_benchmark.py --json demos/results/reader_benchmark.json

Makes the file first (ten minutes; one minute is encoded, and repeated without encoding it again). Each reader
runs in a process of its own, in turn, several times over, so that other work on the machine meets all alike.
Processor seconds count all threads; decord is called directly, without the child process our backend puts
around it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, COLS, FPS, MINUTE = 720, 1280, 30, 60
PACKAGES = {"streamprune": "av", "decord": "decord", "opencv": "cv2", "torchcodec": "torchcodec"}
Pictures = NDArray[np.uint8]


def make_file(path: Path, minutes: int) -> None:
    """Encode one minute of moving texture with libx264's own defaults and repeat it ``minutes`` times."""
    import av

    first = path.with_name(f"{path.stem}_first.mp4")
    with av.open(str(first), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = COLS, ROWS, "yuv420p"
        for number, picture in enumerate(_moving_pictures(MINUTE * FPS)):
            if number % FPS == 0:
                print(f"\rencoding: {number // FPS} of {MINUTE} s", end="", file=sys.stderr, flush=True)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    print(file=sys.stderr)
    with av.open(str(path), "w") as target:
        copy: Any = None
        for minute in range(minutes):
            with av.open(str(first)) as source:
                video = source.streams.video[0]
                copy = copy or target.add_stream_from_template(video)
                assert video.time_base is not None
                offset = round(minute * MINUTE / video.time_base)
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, copy
                    target.mux(packet)
    first.unlink()


def _moving_pictures(count: int) -> Any:
    """Yield a camera drifting over a textured plane, with four textured squares and a little noise."""
    chance = np.random.default_rng(7)
    plane = _texture(1200, 2200, chance)
    noise = chance.integers(-2, 3, (8, ROWS, COLS, 1)).astype(np.int16)
    squares = [_texture(side, side, chance) for side in (96, 140, 180, 64)]
    for number in range(count):
        left, top = int(450 + 440 * np.sin(number / 170)), int(230 + 225 * np.sin(number / 260 + 1))
        picture = plane[top : top + ROWS, left : left + COLS].copy()
        for place, square in enumerate(squares):
            side = len(square)
            x = int((COLS - side) * (0.5 + 0.5 * np.sin(number / (40 + 13 * place) + place)))
            y = int((ROWS - side) * (0.5 + 0.5 * np.cos(number / (55 + 9 * place))))
            picture[y : y + side, x : x + side] = square
        yield np.clip(picture + noise[number % 8], 0, 255).astype(np.uint8)


def _texture(rows: int, cols: int, chance: np.random.Generator) -> Pictures:
    """Random colours at four scales, added."""
    total = np.full((rows, cols, 3), 120.0)
    for step, strength in ((128, 60.0), (32, 40.0), (8, 18.0), (2, 6.0)):
        coarse = chance.standard_normal((rows // step + 2, cols // step + 2, 3))
        fine = coarse.repeat(step, 0).repeat(step, 1)[:rows, :cols]
        total += strength * fine
    texture: Pictures = np.clip(total, 0, 255).astype(np.uint8)
    return texture


def read_streamprune(path: Path, num_frames: int) -> list[Pictures]:
    """Read with the default reader of this package."""
    from streamprune.frames import Uniform
    from streamprune.readers import open_source

    with open_source(path) as source:
        return [frame.image for frame in source.sample(Uniform(num_frames=num_frames).times(source.info))]


def read_decord(path: Path, num_frames: int) -> list[Pictures]:
    """Read with decord's get_batch."""
    reader: Any = import_module("decord").VideoReader(str(path))
    return list(reader.get_batch(_numbers(len(reader), num_frames)).asnumpy())


def read_opencv(path: Path, num_frames: int) -> list[Pictures]:
    """Read with OpenCV's own positioning (exact for this file of constant rate)."""
    cv2: Any = import_module("cv2")
    capture = cv2.VideoCapture(str(path))
    pictures = []
    for number in _numbers(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), num_frames):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        pictures.append(np.ascontiguousarray(capture.read()[1][:, :, ::-1]))
    capture.release()
    return pictures


def read_torchcodec(path: Path, num_frames: int) -> list[Pictures]:
    """Read with torchcodec's get_frames_at."""
    decoder: Any = import_module("torchcodec.decoders").VideoDecoder(str(path), dimension_order="NHWC")
    return list(decoder.get_frames_at(_numbers(len(decoder), num_frames)).data.numpy())


def _numbers(total: int, num_frames: int) -> list[int]:
    """The frame in the middle of each of ``num_frames`` equal parts, as `Uniform` chooses."""
    return [int((look + 0.5) * total / num_frames) for look in range(num_frames)]


READERS: dict[str, Callable[[Path, int], list[Pictures]]] = {
    "streamprune": read_streamprune,
    "decord": read_decord,
    "opencv": read_opencv,
    "torchcodec": read_torchcodec,
}


def run_one(name: str, path: Path, num_frames: int, digest_path: Path) -> dict[str, float]:
    """Read once in this process and say what it took."""
    import_module("torchcodec.decoders" if name == "torchcodec" else PACKAGES[name])
    held = _resident_kilobytes("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    pictures = READERS[name](path, num_frames)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = _resident_kilobytes("VmHWM")
    returned = sum(picture.nbytes for picture in pictures)
    np.save(digest_path, np.stack([picture[::8, ::8] for picture in pictures]))  # enough to compare frames by
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "extra_megabytes": (peak - held) / 1024 - returned / 2**20,
        "num_frames": len(pictures),
    }


def _resident_kilobytes(kind: str) -> int:
    """Read this process's memory (VmRSS: now, VmHWM: at its highest) from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def compare(path: Path, num_frames: int, rounds: int, names: list[str]) -> dict[str, Any]:
    """Run every reader ``rounds`` times, in turn."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    pictures: dict[str, NDArray[np.int16]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name in names:
                kept = Path(folder) / f"{name}.npy"
                command = [sys.executable, __file__, "--run", name, "--frames", str(num_frames)]
                answer = subprocess.run(
                    [*command, "--file", str(path), "--keep", str(kept)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                runs[name].append(json.loads(answer.stdout.splitlines()[-1]))
                pictures[name] = np.load(kept).astype(np.int16)
    ours = pictures["streamprune"]
    readers = {name: _summary(runs[name], int(np.abs(pictures[name] - ours).max())) for name in names}
    result: dict[str, Any] = {"readers": readers}
    if "decord" in readers:
        result["ratio_to_decord"] = {
            kind: round(readers["streamprune"][kind]["median"] / readers["decord"][kind]["median"], 3)
            for kind in ("cpu_seconds", "wall_seconds")
        }
    return result


def _summary(runs: list[dict[str, float]], difference: int) -> dict[str, Any]:
    seconds = {
        kind: {
            "median": round(statistics.median(run[kind] for run in runs), 2),
            "all": [round(run[kind], 2) for run in runs],
        }
        for kind in ("cpu_seconds", "wall_seconds")
    }
    return {
        **seconds,
        "extra_megabytes": round(max(run["extra_megabytes"] for run in runs)),
        "num_frames": runs[0]["num_frames"],
        "max_difference_from_ours": difference,
    }


def installed() -> dict[str, str]:
    """Return the readers that can be imported, with the version of their package."""
    names = {
        "streamprune": "av",
        "decord": "decord",
        "opencv": "opencv-python-headless",
        "torchcodec": "torchcodec",
    }
    return {
        name: _version(names[name]) for name, package in PACKAGES.items() if find_spec(package) is not None
    }


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def main() -> None:
    """Make the file if need be, compare, print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--file", type=Path, default=Path(tempfile.gettempdir()) / "streamprune_ten_minutes.mp4"
    )
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--run", choices=sorted(READERS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run_one(args.run, args.file, args.frames, args.keep)))
        return
    if not args.file.exists():
        make_file(args.file, args.minutes)
    versions = installed()
    result = {
        "file": {
            "bytes": args.file.stat().st_size,
            "sha256": hashlib.sha256(args.file.read_bytes()).hexdigest(),
        },
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "versions": versions,
        **compare(args.file, args.frames, args.rounds, list(versions)),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
