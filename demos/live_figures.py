"""What long runs found about streams, as a table of the README; from the records of ``make soak``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[str], dict[str, Any]]


def live_markdown(read: Read) -> str:
    """One line per run, with the command that does it again."""
    day, cameras, saves = read("stream_soak"), read("rtsp_soak"), read("save_soak")
    late = read("latency_soak")
    files, threads, tower = read("cache_soak"), read("ask_soak"), read("tower_cache")
    first, last = day["compared_frames"]
    still, busy = (_tower(tower, scene) for scene in ("static", "busy"))
    down = cameras["down_seconds"]
    lines = [
        (
            f"{day['frames']:,} frames, {day['memory_bytes'] / 1e6:g} MB",
            f"at most {day['most_held_bytes'] / 1e6:.1f} MB held, which is the storage of all tensors; "
            f"the process grows by {day['grown_mib']:.1f} MiB from frame {first:,} to {last:,}",
            "demos/stream_soak.py",
        ),
        (
            f"the same question at frame {late['full_at_frame']:,}, when memory was full, and "
            f"{late['frames']:,}",
            f"{late['early_ms']:.1f} and {late['late_ms']:.1f} ms of processor time: "
            f"{late['latency_ratio']:.2f} times",
            "demos/latency_soak.py",
        ),
        (
            f"an RTSP server killed {cameras['kills']} times for {down:g} s",
            f"frames again within {cameras['worst_return_seconds']:.2f} s of its return, "
            f"{cameras['frames_twice']} of {cameras['frames']} twice, "
            f"{cameras['resident_mb']['before']:.0f} -> {cameras['resident_mb']['after']:.0f} MB resident",
            "demos/rtsp_soak.py",
        ),
        (
            f"8 threads asking, {threads['frames']} frames at 2 a second",
            f"{100 * threads['share']:.0f} % of the frames taken in, "
            f"{1000 * threads['late_seconds_most']:.0f} ms late at most; {threads['answers']:,} answers, "
            f"{threads['differing']} other than asked alone",
            "demos/ask_soak.py",
        ),
        (
            f"`kill -9` while saving, {saves['kills']} times",
            f"the last complete snapshot loaded {saves['loaded']} times, {saves['damaged']} damaged",
            "demos/save_soak.py",
        ),
        (
            f"`kill -9` while writing to the disk cache, {files['kills']} times",
            f"{files['entries']} entries read, {files['torn']} torn",
            "demos/cache_soak.py",
        ),
        (
            "`encoder:stc`, 4 layers of SigLIP so400m, by changed pictures",
            f"{still:.2f} of the tower's time before a still camera, {busy:.2f} before a busy one",
            "streamprune bench --stage tower-cache",
        ),
    ]
    rows = [f"| {what} | {found} | `{how}` |" for what, found, how in lines]
    return "\n".join(["| what was done | what was found | again with |", "| --- | --- | --- |", *rows]) + "\n"


def _tower(record: Mapping[str, Any], scene: str) -> float:
    """Processor time with the cache over that without."""
    rows = [row for row in record["rows"] if (row["scene"], row["method"]) == (scene, "pixels")]
    return float(rows[0]["cpu_ratio"])
