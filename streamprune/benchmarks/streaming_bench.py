"""StreamingBench: questions asked at a moment of a running video.

Source: the set's release (mjuicem/StreamingBench): questions_real.json, questions_omni.json and
questions_sqa.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_in, without_letters
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import Record, as_records, read_json
from streamprune.benchmarks.subtitles import clock_seconds
from streamprune.errors import InvalidValueError, SourceFormatError

_PROACTIVE = "proactive"
_NOT_CARRIED_OUT = (
    "its questions are not asked at one moment: the model is polled every second whether it is time to "
    "speak, and the moment it speaks is scored. That is not carried out"
)


class StreamingBench(Benchmark):
    """Subsets are "real", "omni" and "sqa"; "proactive" is refused. The kind is the part.

    Everything up to the moment of the question may be shown, nothing later. The questions of sqa refer to
    those before them in their chain: as in the authors' evaluation these stand before the question, with
    their right answers, not the model's. Questions of omni partly need the sound, which is not given.
    """

    name = "streamingbench"
    title = "StreamingBench"
    question_files = ("questions_real.json", "questions_omni.json", "questions_sqa.json")
    columns = ("questions", "video_path")
    layout = "questions_real.json, questions_omni.json, questions_sqa.json, videos/sample_1_real.mp4"
    subsets = ("real", "omni", "sqa", _PROACTIVE)

    def paths(self, folder: SetFolder) -> list[Path]:
        """The files of the wanted parts that are there."""
        names = [f"questions_{folder.subset}.json"] if folder.subset else self.question_files
        return [folder.path / name for name in names if (folder.path / name).is_file()]

    def recognises(self, folder: SetFolder) -> bool:
        """By the columns of the first chain's first record."""
        first = [record for path in self.paths(folder)[:1] for chain in _chains(path) for record in chain[:1]]
        return bool(first) and set(self.columns) <= set(first[0].values)

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items file by file, numbered through each file."""
        if folder.subset == _PROACTIVE:
            raise InvalidValueError(
                f"subset 'proactive' of StreamingBench: {_NOT_CARRIED_OUT}; ask real, omni or sqa"
            )
        if not folder.subset and (folder.path / "questions_proactive.json").is_file():
            folder.notes.append(f"questions_proactive.json is left out: {_NOT_CARRIED_OUT}")
        for path in self.required_paths(folder):
            part = path.stem.removeprefix("questions_")
            number = 0
            for chain in _chains(path):
                earlier: list[str] = []
                for clip in chain:
                    for question in clip.records("questions"):
                        item = _item(folder, part, number, clip, question, earlier if part == "sqa" else [])
                        yield item
                        earlier.append(_told(question, item))
                        number += 1


def _chains(path: Path) -> list[list[Record]]:
    """The records of a file in chains: sqa is a list of lists, in the others every record stands alone."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise SourceFormatError(f"{path.name} must hold a list, got {type(rows).__name__}")
    chains = [row if isinstance(row, list) else [row] for row in rows]
    return [as_records(chain, f"{path.name}, entry {number}") for number, chain in enumerate(chains, 1)]


def _item(
    folder: SetFolder, part: str, number: int, clip: Record, question: Record, earlier: list[str]
) -> Item:
    options = without_letters(question.texts("options"))
    words = question.text("question")
    if earlier:
        words = "Asked and answered before:\n" + "\n".join(earlier) + f"\n\nThe question now: {words}"
    return Item(
        id=f"{part}_{number}",
        video=_video(folder, part, PurePosixPath(clip.text("video_path"))),
        question=words,
        options=options,
        answer=letter_in(question, "answer", options),
        category=question.text("task_type"),
        tags={
            "kind": part,
            "ability": question.text("required_ability", ""),
            "domain": clip.text("video_categories", ""),
        },
        end_seconds=clock_seconds(question.text("time_stamp"), question.place),
        streaming=True,
    )


def _video(folder: SetFolder, part: str, path: PurePosixPath) -> Path:
    """The file at its path ("./videos/sample_1_real.mp4"), or of its name in the folders of videos."""
    at_path = folder.video(str(path).lstrip("/"), ".")
    return at_path if at_path.exists() else folder.video(path.name, "videos", f"data/{part}")


def _told(question: Record, item: Item) -> str:
    """A question of a chain as those after it are told of it: when, what, and its right answer."""
    right = item.options[item.letters.index(item.answer or "A")]
    return f"At {question.text('time_stamp')}: {question.text('question')} Right answer: {right}"
