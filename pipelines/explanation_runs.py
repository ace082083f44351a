"""The two runs of an explanation, with what is noted while they are carried out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from streamprune.errors import ContextLengthError
from streamprune.frames import FrameMethod, Uniform
from streamprune.frames.timestamps import Timestamps
from streamprune.metrics.memory import PeakMemory, kv_bytes_by_layer
from streamprune.models.base import VideoFamily
from streamprune.models.generation import generate
from streamprune.models.question_signals import (
    attention_noted,
    mean_attention,
    read_attention,
    with_question,
)
from streamprune.models.tower_witness import TowerWitness, witnessed_tower
from streamprune.pipelines.asking import Answered, Asking
from streamprune.pipelines.explanation_pictures import SeenPictures
from streamprune.pipelines.explanation_stages import (
    cache_notes,
    held_in_cache,
    inside_llm,
    kept_tokens,
    layer_tokens,
    segments_of,
    similarity_of,
    tower_work,
)
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.job import Job, Reduced
from streamprune.readers import Source
from streamprune.recipe import Recipe
from streamprune.registry import STAGES
from streamprune.report.explain.data import Asked, Attention, Explanation, Run
from streamprune.tokens import Reduction

_LOOKED = (
    "attention of the prompt's last token to the visual tokens, as shares of what they get together; mean "
    "over heads and the last third of the layers"
)


@dataclass
class Runs:
    """Both runs of one question, and what is noted on the way.

    Attributes:
        inference_seconds: what the two runs took; the rest is explaining.
    """

    asking: Asking
    source: Source
    question: str
    pictures: SeenPictures = field(default_factory=SeenPictures)
    notes: list[str] = field(default_factory=list)
    inference_seconds: float = 0.0
    seen: TowerWitness | None = None
    job: Job | None = None
    reduced: Reduced | None = None
    answered: Answered | None = None
    full: Answered | None = None
    attention: Attention | None = None

    @property
    def family(self) -> VideoFamily:
        """The model."""
        return self.asking.family

    @cached_property
    def own_frames(self) -> bool:
        """Whether the recipe, and not the caller, chose which frames to look at."""
        looks = self.asking.frames
        chooses = "frames" in looks.recipe.stages and looks.frames is None and looks.fps is None
        return chooses and not isinstance(looks.method(1), Uniform)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        started, copied = time.perf_counter(), self.pictures.seconds
        yield
        self.inference_seconds += time.perf_counter() - started - (self.pictures.seconds - copied)

    def carry_out(self) -> None:
        """Encode, reduce and answer, without the recipe first."""
        asking, question = self.asking, self.question
        watched = replace(asking, how=replace(asking.how, see=self.pictures.see))
        with self._inference(), witnessed_tower() as self.seen:
            self.job = watched.prepare(self.source, question)
        with self._inference():
            self.reduced = asking.reduce(self.job, question)
            prompt = asking.prompt(self.job, question, self.reduced)
        self._warm_up(self.job)
        try:
            self._answer_in_full(self.job)
        except ContextLengthError as error:
            self.notes.append(f"There is no answer from every token to compare with: {error}.")
        if self.attention is None:
            self.attention = self._look(self.job)
        with self._inference():
            self.answered = asking.carry_out(self._fresh(self.job), question, self.reduced, prompt)

    def _fresh(self, job: Job) -> Job:
        """``job`` with a peak of its own: what was needed before, or for the other run, is not in it."""
        return replace(job, peak=PeakMemory(self.family.device).start())

    def _warm_up(self, job: Job) -> None:
        """Read the question with one token, so that neither run pays for what a first one costs."""
        first = torch.zeros(1, dtype=torch.int64, device=job.video.tokens.features.device)
        one = Reduction.select(job.video.tokens, first)
        prompt = self.family.prompt(
            self.question, one, pts_seconds=job.video.pts_seconds, positions="renumber"
        )
        generate(self.family, prompt, max_new_tokens=2)

    def _answer_in_full(self, job: Job) -> None:
        """The run without the recipe; notes where the question looks if it sees the recipe's frames."""
        asking, family = self.asking, self.family
        request = replace(asking.request, recipe=_nothing(), options={}, positions=None)
        shared = asking.how.encoder is None and not self.own_frames
        looks = FrameRequest(_nothing(), frames=None if shared else self._plain_frames())
        plain = Asking(family, request, looks, replace(asking.how, encoder=None))
        with self._inference():
            own = plain.prepare(job.video if shared else self.source, self.question)
            everything = plain.reduce(own, self.question)
            prompt = plain.prompt(own, self.question, everything)
            with family.lock, attention_noted(family, prompt) as rows:
                self.full = plain.carry_out(self._fresh(own), self.question, everything, prompt)
        if not self.own_frames and rows:
            self.attention = _attention(mean_attention(family, rows), job, _LOOKED)

    def _plain_frames(self) -> FrameMethod:
        """What the run without the recipe looks at: the same, or as many where the recipe chose."""
        times = [picture.pts_seconds for picture in self.pictures.pictures]
        end = self.source.info.duration_seconds
        if not self.own_frames:
            # a container may end before its last picture
            return Timestamps(times_seconds=times if end is None else [min(time, end) for time in times])
        chosen = self.asking.frames.method(1)
        return Uniform(
            num_frames=len(times), start_seconds=chosen.start_seconds, end_seconds=chosen.end_seconds
        )

    def _look(self, job: Job) -> Attention:
        """Where the question looks, read for this alone."""
        tokens = job.video.tokens
        try:
            prompt = self.family.prompt(
                self.question, Reduction.identity(tokens), pts_seconds=tokens.pts_seconds, positions="keep"
            )
            if max(len(prompt), prompt.reach) <= self.family.context_tokens:
                looked = read_attention(self.family, prompt)
                return _attention(looked, job, f"{_LOOKED}; read once more, from every token of these frames")
        except ContextLengthError:
            pass
        asked = with_question(self.family, self.question, tokens, ("query_frame_attention",))
        shares = asked.tokens.signal("query_frame_attention", (tokens.grid.frames,))
        return Attention(
            frames=_shares(shares), tokens=(), said=f"{_LOOKED}; of every second or later row and column"
        )

    def explanation(self, where: dict[str, Any]) -> Explanation:
        """All of it."""
        job, reduced, answered, seen = self.job, self.reduced, self.answered, self.seen
        assert job is not None  # after carry_out
        assert reduced is not None
        assert answered is not None
        assert seen is not None
        request, tokens = self.asking.request, job.video.tokens
        grid, depth = tokens.grid, self.asking.shape.layers
        stages = request.recipe.stages
        names = {stage: stages[stage].method if stage in stages else "" for stage in STAGES}
        name = names["pre_llm"] or "none"
        similarity = similarity_of(tokens)
        pictures = self.pictures.by_frame(self.family.frames_per_slice)
        tower = tower_work(names["encoder"], seen, grid, len(self.pictures.pictures))
        inside = inside_llm(names["in_llm"], request.in_llm(), answered, depth)
        self.notes += [one for one in (tower, inside) if isinstance(one, str)]
        cache = held_in_cache(names["kv"], answered)
        self.notes += cache_notes(names["kv"], answered.cache)
        return Explanation(
            asked=Asked(
                video=job.video.source,
                model=self.family.checkpoint.name,
                question=self.question,
                recipe=request.recipe.name,
                toml=request.recipe.to_toml(),
                stages=tuple((stage, choice.method) for stage, choice in stages.items()),
                circumstances=where,
            ),
            reduced=_run(_label(request.recipe), answered, depth),
            full=None if self.full is None else _run("every token", self.full, depth),
            same_frames=not self.own_frames,
            grid=(grid.frames, grid.rows, grid.cols),
            pts_seconds=job.video.pts_seconds,
            duration_seconds=self.source.info.duration_seconds,
            pictures=pictures,
            kept=kept_tokens(name, reduced.reduction),
            similarity=tuple(similarity.tolist()),
            segments=segments_of(name, job.method, reduced.reduction, tokens, similarity),
            attention=self.attention,
            tower=None if isinstance(tower, str) else tower,
            in_llm=None if isinstance(inside, str) else inside,
            cache=cache,
            warnings=job.video.warnings,
            notes=tuple(self.notes),
        )


def _run(label: str, answered: Answered, depth: int) -> Run:
    return Run(
        label=label,
        answer=answered.answer.to_dict(),
        kv_bytes=kv_bytes_by_layer(answered.cache),
        layer_tokens=layer_tokens(answered, depth),
    )


def _attention(tokens: torch.Tensor, job: Job, said: str) -> Attention:
    frames = tokens.reshape(job.video.tokens.grid.frames, -1).sum(1)
    return Attention(frames=_shares(frames), tokens=_shares(tokens), said=said)


def _shares(values: torch.Tensor) -> tuple[float, ...]:
    """To six digits: nobody sees more, and the page is smaller."""
    return tuple(float(f"{value:.6g}") for value in values.float().tolist())


def _nothing() -> Recipe:
    return Recipe.named("none")


def _label(recipe: Recipe) -> str:
    budget = recipe.budget
    if budget.keep_tokens is not None:
        return f"{recipe.name}, {budget.keep_tokens} tokens"
    return recipe.name if budget.keep_ratio is None else f"{recipe.name}, keep {budget.keep_ratio:g}"
