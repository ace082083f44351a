"""StreamingBench: questions asked at a moment of a running video.

Source: the set's release (mjuicem/StreamingBench), as nested json or as a csv for each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_in, without_letters
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import read_records
from streamprune.benchmarks.streaming_bench_files import Asked, clip_lists, csv_chains, json_chains
from streamprune.benchmarks.subtitles import clock_seconds
from streamprune.errors import InvalidValueError

_PROACTIVE = "proactive"
_NOT_CARRIED_OUT = (
    "its questions are not asked at one moment: the model is polled every second whether it is time to "
    "speak, and the moment it speaks is scored. That is not carried out"
)
_TABLES = {
    "real": "Real_Time_Visual_Understanding.csv",
    "omni": "Omni_Source_Understanding.csv",
    "contextual": "Contextual_Understanding.csv",
    "sqa": "Sequential_Question_Answering.csv",
}
_NESTED = {part: f"questions_{part}.json" for part in ("real", "omni", "sqa")}


class StreamingBench(Benchmark):
    """Subsets are "real", "omni", "sqa" and, in the csv form, "contextual"; "proactive" is refused.

    The kind of items is the part. Everything up to the moment of the question may be shown, nothing later.
    The questions of sqa refer to those before them in their chain: as in the authors' evaluation these stand
    before the question, with their right answers, not the model's. Questions of omni partly need the sound,
    which is not given.
    """

    name = "streamingbench"
    title = "StreamingBench"
    question_files = (*_NESTED.values(), *(f"StreamingBench/{name}" for name in _TABLES.values()))
    columns = ("questions", "video_path")
    layout = (
        "questions_real.json (omni, sqa) and videos/sample_1_real.mp4, or StreamingBench/"
        "Real_Time_Visual_Understanding.csv and the archives unpacked to data/real/sample_1/video.mp4"
    )
    subsets = ("real", "omni", "contextual", "sqa", _PROACTIVE)

    def paths(self, folder: SetFolder) -> list[Path]:
        """The files of the wanted parts that are there, of the nested form if any is."""
        return [path for _, path in self._parts(folder)]

    def recognises(self, folder: SetFolder) -> bool:
        """By the columns of the first record."""
        for _, path in self._parts(folder)[:1]:
            if path.suffix == ".csv":
                return any("time_stamp" in one.values for one in read_records(path)[:1])
            return any(
                set(self.columns) <= set(one.values) for clips in clip_lists(path) for one in clips[:1]
            )
        return False

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items part by part in the order of the files."""
        if folder.subset == _PROACTIVE:
            raise InvalidValueError(
                f"subset 'proactive' of StreamingBench: {_NOT_CARRIED_OUT}; ask real, omni or sqa"
            )
        polled = folder.files(("questions_proactive.json", "StreamingBench/Proactive_Output.csv"))
        if polled and not folder.subset:
            folder.notes.append(f"{polled[0].name} is left out: {_NOT_CARRIED_OUT}")
        self.required_paths(folder)
        for part, path in self._parts(folder):
            read = csv_chains if path.suffix == ".csv" else json_chains
            for chain in read(folder, part, path):
                earlier: list[str] = []
                for asked in chain:
                    item = _item(part, asked, earlier if part == "sqa" else [])
                    yield item
                    earlier.append(_told(asked, item))

    def _parts(self, folder: SetFolder) -> list[tuple[str, Path]]:
        for names, bases in ((_NESTED, ("",)), (_TABLES, ("StreamingBench/", ""))):
            wanted = [part for part in names if folder.subset in (None, part)]
            found = [(part, path) for part in wanted for path in folder.files(_at(bases, names[part]))]
            if found:
                return found
        return []


def _at(bases: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(f"{base}{name}" for base in bases)


def _item(part: str, asked: Asked, earlier: list[str]) -> Item:
    record = asked.record
    options = without_letters(record.texts("options"))
    words = record.text("question")
    if earlier:
        words = "Asked and answered before:\n" + "\n".join(earlier) + f"\n\nThe question now: {words}"
    return Item(
        id=asked.id,
        video=asked.video,
        question=words,
        options=options,
        answer=letter_in(record, "answer", options),
        category=record.text("task_type"),
        tags={"kind": part, "ability": record.text("required_ability", ""), "domain": asked.domain},
        end_seconds=clock_seconds(record.text("time_stamp"), record.place),
        streaming=True,
    )


def _told(asked: Asked, item: Item) -> str:
    """A question of a chain as those after it are told of it: when, what, and its right answer."""
    right = item.options[item.letters.index(item.answer or "A")]
    return f"At {asked.record.text('time_stamp')}: {asked.record.text('question')} Right answer: {right}"
