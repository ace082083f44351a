"""The two forms in which StreamingBench is released: nested json, and a csv for each part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from streamprune.benchmarks.base import SetFolder
from streamprune.benchmarks.records import Record, as_records, read_json, read_records
from streamprune.errors import SourceFormatError

_SAMPLE = re.compile(r"(?:sample)?_(\d+)_(\d+)$")
# the archives of videos are named by part or by task; one task is called otherwise in the questions
_ARCHIVES = {
    "real": "Real-Time Visual Understanding",
    "sqa": "Sequential Question Answering",
    "Misleading Context Recognition": "Misleading Context Understanding",
}


@dataclass(frozen=True)
class Asked:
    """One question of a file: its id, its record, its video, and what the video is about."""

    id: str
    record: Record
    video: Path
    domain: str = ""


def json_chains(folder: SetFolder, part: str, path: Path) -> Iterator[list[Asked]]:
    """Questions in chains: sqa is a list of lists of clips, elsewhere every clip stands alone."""
    number = 0
    for clips in clip_lists(path):
        chain = []
        for clip in clips:
            video = _named_video(folder, part, PurePosixPath(clip.text("video_path")))
            for record in clip.records("questions"):
                chain.append(Asked(f"{part}_{number}", record, video, clip.text("video_categories", "")))
                number += 1
        yield chain


def clip_lists(path: Path) -> list[list[Record]]:
    """The clips of a json file in lists."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise SourceFormatError(f"{path.name} must hold a list, got {type(rows).__name__}")
    lists = [row if isinstance(row, list) else [row] for row in rows]
    return [as_records(clips, f"{path.name}, entry {number}") for number, clips in enumerate(lists, 1)]


def csv_chains(folder: SetFolder, part: str, path: Path) -> Iterator[list[Asked]]:
    """Questions in chains: one for each video in sqa, elsewhere every question stands alone."""
    chains: dict[str, list[Asked]] = {}
    for record in read_records(path):
        name = record.text("question_id")
        match = _SAMPLE.search(name)
        if match is None:
            raise record.wrong("question_id", "a text that ends in sample_VIDEO_QUESTION", name)
        asked = Asked(name, record, _archived_video(folder, part, record.text("task_type"), match[1]))
        chains.setdefault(match[1] if part == "sqa" else name, []).append(asked)
    for chain in chains.values():
        yield sorted(chain, key=lambda asked: int(asked.id.rpartition("_")[2]))


def _named_video(folder: SetFolder, part: str, path: PurePosixPath) -> Path:
    """The file at its path ("./videos/sample_1_real.mp4"), or of its name in the folders of videos."""
    at_path = folder.video(str(path).lstrip("/"), ".")
    return at_path if at_path.exists() else folder.video(path.name, "videos", f"data/{part}")


def _archived_video(folder: SetFolder, part: str, task: str, sample: str) -> Path:
    """The file as the archives are unpacked, sample_1/video.mp4, or under the name that the json form has."""
    archive = _ARCHIVES.get(part) or _ARCHIVES.get(task, task)
    bases = [archive, f"videos/{archive}", *([f"data/{part}", f"videos/{part}"] if part in _ARCHIVES else [])]
    unpacked = folder.video("video.mp4", *(f"{base}/sample_{sample}" for base in bases))
    suffix = part if part in _ARCHIVES else archive.replace(" ", "_")
    named = folder.video(f"sample_{sample}_{suffix}", "videos")
    return named if named.exists() and not unpacked.exists() else unpacked
