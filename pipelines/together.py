"""Several videos in one question: "which of the two is faster?"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError
from streamprune.models.generation import check_context, generate
from streamprune.models.joint_prompt import joint_prompt
from streamprune.pipelines.answers import Answer, AnswerStream, Stats
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.job import stats_of
from streamprune.pipelines.several import read_videos

# what each video adds to what an answer took
_ADDED = (
    "frames", "tokens_in", "tokens_kept", "decode_ms", "preprocess_ms", "encode_ms", "choose_ms",
    "reduce_ms", "reduce_flops", "cache_ms",
)  # fmt: skip


class Videos:
    """Videos that one question is about: ``vlm.ask(Videos("a.mp4", "b.mp4"), "which is longer?")``.

    Each is encoded and reduced by itself, to the budget of the call; all stand in one prompt, in this order.
    A picture is a video of one frame.
    """

    def __init__(self, *videos: Any) -> None:
        if not videos:
            raise InvalidValueError("Videos must hold at least one video")
        if len(videos) == 1 and read_videos(videos[0]) is not None:
            raise InvalidTypeError(
                "Videos takes videos one by one: Videos(first, second), not a list of them"
            )
        self.videos = videos

    def __repr__(self) -> str:
        return f"Videos({len(self.videos)} of them)"


@dataclass(frozen=True)
class Together:
    """All videos of one question, encoded; ``ask`` may be called for one question after the other."""

    asking: Asking
    videos: tuple[Any, ...]

    def __post_init__(self) -> None:
        stages = self.asking.request.recipe.stages.keys() & {"in_llm", "kv"}
        if stages:
            raise RecipeError(
                f"the recipe's stages {', '.join(sorted(stages))} take one video in a prompt; leave them "
                "out, or ask about each video"
            )

    def ask(self, question: str, say: Any = None, stop: Any = None) -> Answer:
        """Encode, reduce, and answer ``question`` about all of them."""
        asking, request = self.asking, self.asking.request
        jobs = [asking.prepare(video, question) for video in self.videos]
        reduced = [asking.reduce(job, question) for job in jobs]
        alone = [asking.prompt(job, question, one) for job, one in zip(jobs, reduced, strict=True)]
        prompt = joint_prompt(asking.family, question, alone)
        check_context(asking.family, len(prompt), request.max_new_tokens, prompt.reach)
        out = generate(
            asking.family,
            prompt,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            on_text=say,
            stop=stop,
        )
        each = [
            stats_of(asking.shape, job, one, len(prompt), out) for job, one in zip(jobs, reduced, strict=True)
        ]
        answer = asking.told(jobs[0], question, out.text, _summed(each))
        return replace(
            answer,
            pts_seconds=tuple(time for job in jobs for time in job.video.pts_seconds),
            warnings=tuple(warning for job in jobs for warning in job.video.warnings),
        )


def ask_together(asking: Asking, videos: Videos, stream: bool) -> list[Answer] | AnswerStream:
    """An answer to every question, each about all of ``videos``."""
    together = Together(asking, videos.videos)
    if stream:
        (question,) = asking.request.questions
        return AnswerStream(lambda say, stop: together.ask(question, say, stop))
    return [together.ask(question) for question in asking.request.questions]


def _summed(each: list[Stats]) -> Stats:
    added = {name: sum(getattr(one, name) for one in each) for name in _ADDED}
    tokens = added["tokens_in"]
    share = sum(one.tower_share * one.tokens_in for one in each) / tokens
    return replace(each[0], **added, tower_share=share, peak_bytes=max(one.peak_bytes for one in each))
