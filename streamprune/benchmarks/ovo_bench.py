"""OVO-Bench: questions at a moment of a running video, about before, now, and what is still to come.

Source: the set's release (JoeLeelyf/OVO-Bench): ovo_bench_new.json; videos whole or cut at each question.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_at
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import Record

_PARTS = {
    **dict.fromkeys(("EPM", "ASI", "HLD"), "backward"),
    **dict.fromkeys(("OCR", "ACR", "ATR", "STU", "FPD", "OJR"), "realtime"),
    **dict.fromkeys(("REC", "SSR", "CRR"), "forward"),
}
_CHUNKED = ("chunked_videos", "data/chunked_videos")
_WHOLE = ("src_videos", "data/src_videos", "videos")


class OVOBench(Benchmark):
    """Subsets are the parts "backward", "realtime" and "forward", or single tasks. The kind is the part.

    A forward record is asked at several moments, each an item: how often something was done so far (REC,
    the answer is a number), whether a step is being carried out (SSR) and whether a question can be answered
    yet (CRR; both Yes or No). The wording of these three is this project's own; the authors ask the same in
    theirs. The authors average tasks first and then parts.
    """

    name = "ovo-bench"
    title = "OVO-Bench"
    question_files = (
        "ovo_bench_new.json",
        "data/ovo_bench_new.json",
        "ovo_bench.json",
        "data/ovo_bench.json",
    )
    columns = ("id", "task")
    any_file_name = True
    layout = "ovo_bench_new.json, chunked_videos/ID.mp4 and ID_0.mp4 (or whole videos below src_videos)"
    subsets = ("backward", "realtime", "forward", *_PARTS)

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items in the order of the file; forward records in the order of their moments."""
        for record in self.records(folder):
            task = record.text("task")
            if task not in _PARTS:
                raise record.wrong("task", f"one of {', '.join(_PARTS)}", task)
            if folder.subset in (None, task, _PARTS[task]):
                yield from (
                    _forward(folder, record) if _PARTS[task] == "forward" else [_at_once(folder, record)]
                )


def _at_once(folder: SetFolder, record: Record) -> Item:
    options = record.texts("options")
    return Item(
        id=record.text("id"),
        video=_video(folder, record, record.text("id")),
        question=record.text("question"),
        options=options,
        answer=letter_at(record, "gt", options),
        category=record.text("task"),
        tags={"kind": _PARTS[record.text("task")]},
        end_seconds=record.number("realtime"),
        streaming=True,
    )


def _forward(folder: SetFolder, record: Record) -> Iterator[Item]:
    task = record.text("task")
    for index, moment in enumerate(record.records("test_info")):
        name = f"{record.text('id')}_{index}"
        yield Item(
            id=name,
            video=_video(folder, record, name),
            question=_question(task, record, moment),
            answer=(
                str(moment.integer("count", 0, 10**6))
                if task == "REC"
                else ("No", "Yes")[moment.integer("type", 0, 1)]
            ),
            category=task,
            tags={"kind": "forward", "record": record.text("id")},
            end_seconds=moment.number("realtime"),
            streaming=True,
        )


def _question(task: str, record: Record, moment: Record) -> str:
    if task == "REC":
        return (
            f"Some people in this video repeat an action. Up to now, how many times in total did they "
            f"{record.text('activity')}? Reply with a number."
        )
    if task == "SSR":
        return f'At this moment, is somebody carrying out the step "{moment.text("step")}"? Reply Yes or No.'
    asked = record.text("question")
    return f'Does what was shown so far tell enough to answer the question "{asked}"? Reply Yes or No.'


def _video(folder: SetFolder, record: Record, name: str) -> Path:
    """The video cut at this moment where it is there, else the whole one, which the item's end cuts."""
    cut = folder.video(name, *_CHUNKED)
    if cut.exists() or "video" not in record:
        return cut
    whole = folder.video(record.text("video").lstrip("/"), *_WHOLE)
    return whole if whole.exists() else cut
