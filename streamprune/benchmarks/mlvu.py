"""MLVU (dev): seven tasks with options and two with free text, on videos of minutes to hours.

Source: the set's release (MLVU/MVLU), one numbered json file for each task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_of_text
from streamprune.benchmarks.item import Item

_CHOICE = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")
_FREE = ("sub_scene", "summary")


class MLVU(Benchmark):
    """Subsets are the tasks, or "choice" (default) and "generation".

    The free texts of sub_scene and summary are judged by a language model in the authors' evaluation; here
    they are only read when asked for, with the reference text as answer.
    """

    name = "mlvu"
    title = "MLVU"
    question_files = ("json/[1-9]_*.json", "MLVU/json/[1-9]_*.json", "[1-9]_*.json")
    columns = ("video", "duration", "question", "answer", "question_type")
    layout = "json/1_plotQA.json to 9_summary.json, video/1_plotQA/NAME.mp4 (or video/plotQA/NAME.mp4)"
    subsets = ("choice", "generation", *_CHOICE, *_FREE)

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items of the wanted tasks; the answer in the files is the text of the right option."""
        for path, records in self.tables(folder):
            task = path.stem.partition("_")[2]
            if not self._wanted(folder, path, task, len(records)):
                continue
            # videos of different tasks share names, so each task has its own folder
            under = [f"{base}{name}" for base in _bases(folder, path) for name in (path.stem, task)]
            for number, record in enumerate(records):
                options = () if task in _FREE else record.texts("candidates")
                yield Item(
                    id=f"{task}_{number}",
                    video=folder.video(record.text("video"), *under),
                    question=record.text("question"),
                    options=options,
                    answer=letter_of_text(record, "answer", options) if options else record.text("answer"),
                    category=task,
                    tags={"duration": record.text("duration", "")},
                )

    def _wanted(self, folder: SetFolder, path: Path, task: str, questions: int) -> bool:
        if folder.subset in ("choice", None) and task in _FREE:
            folder.notes.append(
                f"{path.name}: {questions} free texts that need a judge are left out; "
                "subset 'generation' reads them"
            )
        wanted = {None: _CHOICE, "choice": _CHOICE, "generation": _FREE}.get(folder.subset)
        return task in (wanted or (folder.subset,))


def _bases(folder: SetFolder, path: Path) -> tuple[str, ...]:
    inside = path.parent.parent if path.parent.name == "json" else path.parent
    prefix = inside.relative_to(folder.path).as_posix()
    return tuple(f"{prefix}/{base}" for base in ("video/", "videos/", ""))
