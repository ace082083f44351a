"""Candidates answering questions in turn with the full model, and what is written down about each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from streamprune.benchmarks.scoring import score
from streamprune.models.sampling import GREEDY, Sampling
from streamprune.pipelines.answers import Answer
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.encoding import Encoding
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.request import AnswerRequest, read_encoder
from streamprune.pipelines.tuning_candidates import Candidate
from streamprune.pipelines.tuning_encoding import Encodings
from streamprune.pipelines.tuning_figures import FullTrial, Trial
from streamprune.pipelines.tuning_loyalty import Listener, Overheard, agreement, loyalty

if TYPE_CHECKING:
    from streamprune.pipelines.journal import Journal
    from streamprune.pipelines.offline import VideoLLM

FULL = "full"
# entries that make a line of the journal the only one of its kind
KEY = ("candidate", "question")


@dataclass(frozen=True)
class _Heard:
    """One answer, its time from the file to the first token, and its memory."""

    answer: Answer
    ttft_ms: float

    @property
    def memory_bytes(self) -> int:
        """The key-value cache, or on a GPU the most that was allocated, which holds it.

        Elsewhere the peak of the process is no figure of one answer: memory that an earlier one left behind
        is used again unseen.
        """
        stats = self.answer.stats
        return stats.kv_bytes

    @property
    def peak_bytes(self) -> int:
        """That peak."""
        return max(self.answer.stats.kv_bytes, self.answer.stats.peak_bytes)


class Examiner:
    """Gets the answers that a search asks for; those that ``journal`` holds are not asked again.

    Args:
        vlm: the model.
        full: the full model as a candidate.
        candidates: by number.
        jobs: the questions, by number.
        max_new_tokens: longest answer.
        journal: with :data:`KEY`; None keeps nothing.

    Attributes:
        asked: answers that were really given, timing once more included.
    """

    def __init__(
        self,
        vlm: VideoLLM,
        full: Candidate,
        candidates: Sequence[Candidate],
        jobs: Sequence[JobLine],
        max_new_tokens: int,
        journal: Journal | None = None,
    ) -> None:
        self.asked = 0
        self._vlm, self._full, self._candidates, self._jobs = vlm, full, candidates, jobs
        self._max_new_tokens, self._journal = max_new_tokens, journal
        self._encodings = Encodings(vlm, [full, *candidates])
        self._on_gpu = vlm.family.device.type == "cuda"
        self._warm = False

    def __call__(
        self, question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        """As :class:`streamprune.pipelines.tuning_search.Ask` says."""
        job = self._jobs[question]
        full = self._found_full(job)
        found = {one: trial for one in candidates if (trial := self._found(self._candidates[one], job))}
        missing = [one for one in candidates if one not in found]
        full_ms: float | None = None
        if full is None:
            full = self._ask_full(job)
            full_ms = full.ttft_ms
        elif missing and timed:
            full_ms = self._answer(self._full, job, GREEDY, 1).ttft_ms
        for one in missing:
            found[one] = self._try(self._candidates[one], job, full, full_ms)
        return full, found

    def _found_full(self, job: JobLine) -> FullTrial | None:
        row = None if self._journal is None else self._journal.done.get((FULL, job.id))
        return None if row is None else FullTrial.from_row(row)

    def _found(self, candidate: Candidate, job: JobLine) -> Trial | None:
        row = None if self._journal is None else self._journal.done.get((candidate.id, job.id))
        return None if row is None else Trial.from_row(row)

    def _ask_full(self, job: JobLine) -> FullTrial:
        """The full model's answer; where the right one is not known, every word with its likelihood."""
        if not self._warm:  # the first answers of a process take longer
            self._answer(self._full, job, GREEDY, 2)
            self._warm = True
        listener = Listener()
        scored = job.answer is not None
        heard = self._answer(self._full, job, GREEDY if scored else Overheard(listener=listener))
        trial = FullTrial(
            right=_is_right(job, heard.answer.text) if scored else None,
            ttft_ms=heard.ttft_ms,
            memory_bytes=self._memory(heard),
            tokens_kept=heard.answer.stats.tokens_kept,
            text=heard.answer.text,
            words=tuple(listener.heard),
        )
        self._write(FULL, job, trial)
        return trial

    def _try(self, candidate: Candidate, job: JobLine, full: FullTrial, full_ms: float | None) -> Trial:
        """The answer of ``candidate``, judged."""
        listener = Listener([word for word, _ in full.words])
        scored = full.right is not None
        heard = self._answer(candidate, job, GREEDY if scored else Overheard(listener=listener))
        if scored:
            loss = float(bool(full.right) - _is_right(job, heard.answer.text))
        else:
            loss = 1 - loyalty(full.words, listener.heard)
        trial = Trial(
            loss=loss,
            scored=scored,
            ttft_ratio=None if full_ms is None else heard.ttft_ms / full_ms,
            memory_bytes=self._memory(heard),
            tokens_kept=heard.answer.stats.tokens_kept,
            agreement=None if scored else agreement(full.words, listener.would_say),
            text=heard.answer.text if scored else "",  # without a right answer it was told what to say
        )
        self._write(candidate.id, job, trial)
        return trial

    def _memory(self, heard: _Heard) -> int:
        return heard.peak_bytes if self._on_gpu else heard.memory_bytes

    def _write(self, candidate: str, job: JobLine, trial: Trial | FullTrial) -> None:
        if self._journal is not None:
            self._journal.add({**dict(zip(KEY, (candidate, job.id), strict=True)), **asdict(trial)})

    def _answer(
        self, candidate: Candidate, job: JobLine, sampling: Sampling, max_new_tokens: int | None = None
    ) -> _Heard:
        """What ``candidate`` answers from the encoded video."""
        self.asked += 1
        seen = self._encodings.get(job, candidate)
        family, recipe = self._vlm.family, candidate.recipe
        request = AnswerRequest(
            (job.prompt,), recipe, {}, max_new_tokens or self._max_new_tokens, None, sampling
        )
        how = Encoding("pyav", family.frames_per_batch, None, read_encoder(recipe))
        asking = Asking(family, request, FrameRequest(recipe), how)
        ready = asking.prepare(seen.video, job.prompt)
        answer = asking.answer(ready, job.prompt, asking.reduce(ready, job.prompt))
        return _Heard(answer, seen.ms + answer.stats.reduce_ms + answer.stats.prefill_ms)


def _is_right(job: JobLine, text: str) -> bool:
    """With options the letter must be read off the reply; a free reply must hold the words of the answer."""
    judged = score(job.item, text)
    return judged.strict if job.options else judged.lenient
