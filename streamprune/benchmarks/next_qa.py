"""NExT-QA (multiple choice): why, when and what, five options on everyday videos.

Source: the set's release (doc-doc/NExT-QA): val.csv, test.csv, map_vid_vidorID.json; videos of VidOR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_at
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import read_json, read_records
from streamprune.errors import SourceFormatError

_MAP = "map_vid_vidorID.json"
_KINDS = {"C": "causal", "T": "temporal", "D": "descriptive"}
_FOLDERS = ("NExTVideo", "videos", "video")
_OPTIONS = tuple(f"a{index}" for index in range(5))


class NExTQA(Benchmark):
    """Subsets are "val" (default where it is there), "test" and "train".

    Videos are found by their own number, or by the map to the folders of VidOR ("1164/6233408665").
    """

    name = "next-qa"
    title = "NExT-QA"
    question_files = (
        "val.csv",
        "nextqa/val.csv",
        "dataset/nextqa/val.csv",
        "MC/*.parquet",
        "test.csv",
        "nextqa/test.csv",
    )
    columns = ("video", "question", "answer", "qid", "type", *_OPTIONS)
    any_file_name = True
    layout = "val.csv, map_vid_vidorID.json beside it, NExTVideo/1164/6233408665.mp4 (or videos/ID.mp4)"
    subsets = ("val", "test", "train")

    def paths(self, folder: SetFolder) -> list[Path]:
        """The file of the wanted part."""
        if folder.subset is None:
            return super().paths(folder)
        return folder.files(
            tuple(f"{base}{folder.subset}.csv" for base in ("", "nextqa/", "dataset/nextqa/"))
        )

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items in the order of the file; the category is the set's own two letters, "CW" or "TN"."""
        for path in self.required_paths(folder):
            places = _places(folder, path)
            for record in read_records(path):
                options = tuple(record.text(name) for name in _OPTIONS)
                number, kind = record.text("video"), record.text("type")
                yield Item(
                    id=f"{number}_{record.text('qid')}",
                    video=_video(folder, number, places),
                    question=record.text("question"),
                    options=options,
                    answer=letter_at(record, "answer", options),
                    category=kind,
                    tags={"kind": _KINDS.get(kind[:1], "")},
                )


def _places(folder: SetFolder, path: Path) -> Mapping[str, str]:
    """Which VidOR file a number stands for; empty where the map is not there."""
    for place in (path.parent / _MAP, folder.path / _MAP):
        if place.is_file():
            places = read_json(place)
            if not isinstance(places, dict):
                raise SourceFormatError(f"{_MAP} must map numbers to files, got {type(places).__name__}")
            return {str(number): str(file) for number, file in places.items()}
    return {}


def _video(folder: SetFolder, number: str, places: Mapping[str, str]) -> Path:
    by_number = folder.video(number, *_FOLDERS)
    return (
        by_number if by_number.exists() or number not in places else folder.video(places[number], *_FOLDERS)
    )
