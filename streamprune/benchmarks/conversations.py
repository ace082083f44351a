"""Questions grouped by video, the common form in which studies of streaming memories share their sets.

Source: the question files released with ReKV for QAEgo4D-MC (test_mc.json), CG-Bench and MLVU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_of_text
from streamprune.benchmarks.cg_bench import intervals
from streamprune.benchmarks.item import Item


class Conversations(Benchmark):
    """Every record is a video with its questions; evidence where they have ``temporal_windows``."""

    name = "conversations"
    title = "questions grouped by video (QAEgo4D-MC and others)"
    question_files = ("test_mc.json", "full_mc.json", "dev_debug_mc.json")
    columns = ("video_id", "video_path", "conversations")
    any_file_name = True
    layout = "test_mc.json (video_id, video_path, conversations), the videos at their paths or in videos/"

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items video by video, numbered within each."""
        for record in self.records(folder):
            video, path = record.text("video_id"), PurePosixPath(record.text("video_path"))
            for number, turn in enumerate(record.records("conversations")):
                options = turn.texts("choices")
                yield Item(
                    id=f"{video}_{number}",
                    video=folder.video(path.name, "videos", str(path.parent).lstrip("/"), "."),
                    question=turn.text("question"),
                    options=options,
                    answer=letter_of_text(turn, "answer", options),
                    category=turn.text("question_type", ""),
                    tags={"duration": record.text("duration", "")},
                    evidence=intervals(turn, "temporal_windows") if "temporal_windows" in turn else (),
                )
