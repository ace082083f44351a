"""CG-Bench: questions on long videos, each with the intervals that hold its clues.

Source: the set's release (CG-Bench/CG-Bench): cgbench.json or cgbench_mini.json, videos and subtitles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_in
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import Record
from streamprune.benchmarks.subtitles import read_srt, with_subtitles


class CGBench(Benchmark):
    """Subsets are "mini" (3000 questions, default where it is there) and "full"; evidence is the clues."""

    name = "cg-bench"
    title = "CG-Bench"
    question_files = ("cgbench_mini.json", "cgbench.json")
    columns = ("qid", "video_uid", "question", "choices", "right_answer", "clue_intervals")
    any_file_name = True
    layout = "cgbench_mini.json or cgbench.json, cg_videos_720p/VIDEO_UID.mp4, cg_subtitles/VIDEO_UID.srt"
    subsets = ("mini", "full")
    has_subtitles = True

    def paths(self, folder: SetFolder) -> list[Path]:
        """The file of the wanted part."""
        if folder.subset is None:
            return super().paths(folder)
        return folder.files(self.question_files[:1] if folder.subset == "mini" else self.question_files[1:])

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """One item for each question, on the whole video."""
        for record in self.records(folder):
            options = record.texts("choices")
            video = record.text("video_uid")
            question = record.text("question")
            spoken = folder.path / "cg_subtitles" / f"{video}.srt"
            # only some of the videos have somebody speaking, and so a file
            if folder.subtitles and spoken.is_file():
                question = with_subtitles(question, read_srt(spoken))
            yield Item(
                id=record.text("qid"),
                video=folder.video(video, "cg_videos_720p", "videos", "cg_videos"),
                question=question,
                options=options,
                answer=letter_in(record, "right_answer", options),
                category=record.text("sub_category", ""),
                tags={"domain": record.text("domain", ""), "duration": record.text("duration", "")},
                evidence=intervals(record, "clue_intervals"),
            )


def intervals(record: Record, column: str) -> tuple[tuple[float, float], ...]:
    """(start, end) in seconds of every interval in ``column``.

    Raises:
        InvalidValueError: it is no list of [start, end] with start before end.
    """
    value = record.raw(column)
    found = []
    for pair in value if isinstance(value, list) else [value]:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(one, int | float) and not isinstance(one, bool) for one in pair)
            and 0 <= pair[0] <= pair[1]
        ):
            raise record.wrong(column, "a list of [start, end] in seconds", value)
        found.append((float(pair[0]), float(pair[1])))
    return tuple(found)
