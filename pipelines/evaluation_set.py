"""What an evaluation asks: questions, their videos, and how one is put to a model and judged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamprune.benchmarks.item import Item
from streamprune.benchmarks.scoring import read_letter, score
from streamprune.errors import InvalidValueError
from streamprune.metrics.evidence import interval_recall, purity
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.job import Job, Reduced
from streamprune.pipelines.journal import fingerprint
from streamprune.readers import Source, open_source
from streamprune.reduction import Reduction


@dataclass(frozen=True)
class Reply:
    """One answer and what it took.

    Attributes:
        text: what the model said.
        prefill_flops: operations of the language model for the prompt; None where it was not asked alone.
        kv_bytes: the key-value cache after the answer; None likewise.
        ms: from the question to the answer: writing the prompt, reading it, and generating.
    """

    text: str
    prefill_flops: int | None
    kv_bytes: int | None
    ms: float


@dataclass(frozen=True)
class QuestionSet:
    """Questions about videos in files; suites with videos of their own override what is said here.

    Args:
        name: of the set.
        items: the questions; ids must differ.
        as_written: free questions are asked as they stand, without a word on how to answer.
        max_new_tokens: longest answer.
    """

    name: str
    items: Sequence[Item]
    as_written: bool = False
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise InvalidValueError(f"{self.name}: the id {item.id!r} is there twice; give each its own")
            seen.add(item.id)

    def first(self, limit: int | None) -> Sequence[Item]:
        """``limit`` questions, evenly spread over all, the same every time; None: all."""
        count = len(self.items)
        if limit is None or limit >= count:
            return self.items
        return [self.items[place * count // limit] for place in range(limit)]

    @cached_property
    def digest(self) -> str:
        """Changes when a question, its options, its answer or its video does."""
        asked = [
            [item.id, str(item.video), self.prompt(item), item.answer, item.start_seconds, item.end_seconds]
            for item in self.items
        ]
        return fingerprint({"items": asked})

    def open(self, item: Item) -> Source:
        """The video of ``item``; SourceError when it cannot be read."""
        return open_source(item.video, fps=item.fps)

    def seed(self, item: Item) -> int:
        """For methods that draw: another one for every video, the same on every machine."""
        return int(fingerprint({"video": item.video.name}), 16) % 2**31

    def prompt(self, item: Item) -> str:
        """What the model is asked."""
        return item.question if self.as_written and not item.options else item.prompt

    def judge(self, item: Item, text: str) -> dict[str, Any]:
        """Entries strict, lenient and parsed of a line; the first two are None without a known answer."""
        if item.answer is None:
            parsed = read_letter(text, item.options) is not None if item.options else bool(text.strip())
            return {"strict": None, "lenient": None, "parsed": parsed}
        found = score(item, text)
        return {"strict": found.strict, "lenient": found.lenient, "parsed": found.parsed}

    def recalls(
        self, items: Sequence[Item], reduction: Reduction, pts_seconds: Sequence[float]
    ) -> list[float | None]:
        """What ``reduction`` left of the evidence of each item, in [0, 1]; None where it is not known."""
        if not any(item.evidence for item in items):
            return [None] * len(items)
        share = purity(reduction)
        return [interval_recall(share, pts_seconds, item.evidence) for item in items]

    def replies(self, asking: Asking, job: Job, reduced: Reduced, items: Sequence[Item]) -> Iterator[Reply]:
        """The answer to each of ``items`` from what is left of the video."""
        for item in items:
            yield asked_alone(asking, job, reduced, self.prompt(item))


def asked_alone(asking: Asking, job: Job, reduced: Reduced, question: str) -> Reply:
    """The answer that a user would get."""
    began = time.perf_counter()
    answer = asking.answer(job, question, reduced)
    ms = 1000 * (time.perf_counter() - began)
    return Reply(answer.text, answer.stats.prefill_flops, answer.stats.kv_bytes, ms)
