"""EgoSchema: five options on three minutes of what somebody saw; 500 of 5031 answers are published.

Source: the set's release (questions.json, subset_answers.json) and its parquet form (lmms-lab/egoschema).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_at, without_letters
from streamprune.benchmarks.item import LETTERS, Item
from streamprune.benchmarks.records import Record, read_json
from streamprune.errors import InvalidValueError, SourceFormatError, SourceNotFoundError

_ANSWERS = "subset_answers.json"
_VIDEOS = ("videos", "good_clips_git", "video")
_OPTIONS = tuple(f"option {index}" for index in range(5))


class EgoSchema(Benchmark):
    """Subsets are "subset" (with published answers, default where they are there) and "full"."""

    name = "egoschema"
    title = "EgoSchema"
    question_files = ("questions.json", "Subset/test-*.parquet", "MC/test-*.parquet")
    columns = ("question",)
    layout = "questions.json, subset_answers.json (index by q_uid), videos/Q_UID.mp4"
    subsets = ("subset", "full")

    def recognises(self, folder: SetFolder) -> bool:
        """By the names that only this set has, in either of its two forms."""
        first = (
            next((records[0] for _, records in self.tables(folder) if records), None)
            if self.paths(folder)
            else None
        )
        return first is not None and any(name in first.values for name in ("q_uid", "video_idx"))

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Questions whose answer is published, or all of them."""
        records = list(self.records(folder))
        if records and "video_idx" in records[0].values:
            yield from (_from_parquet(folder, record) for record in records)
            return
        answers = self._answers(folder, {record.text("q_uid") for record in records})
        left_out = 0
        for record in records:
            uid = record.text("q_uid")
            if folder.subset != "full" and answers and uid not in answers:
                left_out += 1
                continue
            yield Item(
                id=uid,
                video=folder.video(uid, *_VIDEOS),
                question=record.text("question"),
                options=tuple(record.text(name) for name in _OPTIONS),
                answer=LETTERS[answers[uid]] if uid in answers else None,
            )
        if left_out:
            folder.notes.append(
                f"{left_out} questions without a published answer are left out; subset 'full' reads them"
            )

    def _answers(self, folder: SetFolder, known: set[str]) -> Mapping[str, int]:
        """The published answers, every one checked."""
        path = folder.path / _ANSWERS
        if not path.is_file():
            if folder.subset == "subset":
                raise SourceNotFoundError(
                    f"{path} is missing; it says which questions have a published answer"
                )
            folder.notes.append(f"{_ANSWERS} is not there: no question has an answer")
            return {}
        answers = read_json(path)
        if not isinstance(answers, dict):
            raise SourceFormatError(f"{_ANSWERS} must map q_uid to an index, got {type(answers).__name__}")
        for uid, index in answers.items():
            if uid not in known:
                raise InvalidValueError(f"{_ANSWERS}: q_uid {uid!r} is not in questions.json")
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(_OPTIONS):
                raise InvalidValueError(
                    f"{_ANSWERS}: answer of {uid!r} must be an integer in [0, 4], got {index!r}"
                )
        return answers


def _from_parquet(folder: SetFolder, record: Record) -> Item:
    options = without_letters(record.texts("option"))
    return Item(
        id=record.text("question_idx"),
        video=folder.video(record.text("video_idx"), *_VIDEOS),
        question=record.text("question"),
        options=options,
        answer=letter_at(record, "answer", options) if "answer" in record else None,
    )
