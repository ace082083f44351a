"""VNBench: needles put into videos, to be found, ordered or counted; every question is asked four times.

Source: the set's release (VideoNIAH): VNBench-main-4try.json. The four tries have the options in another
order, and a question counts only when all four are right.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_in
from streamprune.benchmarks.item import Item

_KINDS = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}


class VNBench(Benchmark):
    """Subsets are "ret", "ord" and "cnt". ``tags["group"]`` joins the tries of one question.

    The release says when each needle starts, not how long it stays, so there is no evidence to look for.
    """

    name = "vnbench"
    title = "VNBench"
    question_files = ("VNBench-main-4try.json", "VNBench/VNBench-main-4try.json")
    columns = ("video", "question", "options", "gt", "gt_option", "type", "try")
    any_file_name = True
    layout = "VNBench-main-4try.json, VNBench_new/NAME.mp4 (or videos/NAME.mp4)"
    subsets = tuple(_KINDS)

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items in the order of the file, the tries of a question with one group."""
        for record in self.records(folder):
            kind = record.text("type")
            if kind[:3] not in _KINDS:
                raise record.wrong("type", f"one that begins with {', '.join(_KINDS)}", kind)
            if folder.subset not in (None, kind[:3]):
                continue
            options = record.texts("options")
            path = PurePosixPath(record.text("video"))
            yield Item(
                id=f"{path.stem}_{record.text('try')}",
                video=folder.video(path.name, "VNBench_new", "videos", "video", "VNBench/VNBench_new"),
                question=record.text("question"),
                options=options,
                answer=letter_in(record, "gt_option", options),
                category=kind,
                tags={"group": path.stem, "kind": _KINDS[kind[:3]], "length": record.text("length", "")},
            )
