"""Video-MME: 900 videos of three lengths, 2700 questions with four options.

Source: the set's release (lmms-lab/Video-MME), test-00000-of-00001.parquet, videos and subtitles unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_in, without_letters
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.subtitles import read_srt, with_subtitles

_FOLDERS = ("data", "videos", "video")


class VideoMME(Benchmark):
    """Subsets are the lengths, also the kind of items. Options carry "A. " in the files, not in items."""

    name = "video-mme"
    title = "Video-MME"
    question_files = (
        "videomme/test-*.parquet",
        "test-*.parquet",
        "Video-MME.json",
        "Video-MME.jsonl",
    )
    columns = ("videoID", "duration", "task_type", "question_id", "question", "options", "answer")
    any_file_name = True
    layout = "videomme/test-*.parquet (or Video-MME.json), data/VIDEOID.mp4, subtitle/VIDEOID.srt"
    subsets = ("short", "medium", "long")
    has_subtitles = True

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """One item for each question; its subtitles, where asked for, as plain lines before it."""
        without_words: dict[str, None] = {}
        for record in self.records(folder):
            video, duration = record.text("videoID"), record.text("duration")
            if duration not in self.subsets:
                raise record.wrong("duration", "short, medium or long", duration)
            if folder.subset not in (None, duration):
                continue
            options = without_letters(record.texts("options"))
            question = record.text("question")
            if folder.subtitles:
                path = folder.path / "subtitle" / f"{video}.srt"
                if path.exists():
                    question = with_subtitles(question, read_srt(path))
                else:
                    without_words[video] = None
            yield Item(
                id=record.text("question_id"),
                video=folder.video(video, *_FOLDERS),
                question=question,
                options=options,
                answer=letter_in(record, "answer", options),
                category=record.text("task_type"),
                tags={
                    "kind": duration,
                    "domain": record.text("domain", ""),
                    "sub_category": record.text("sub_category", ""),
                },
            )
        if without_words:
            folder.notes.append(f"{len(without_words)} videos have no file in subtitle/; asked without")
