"""Asking as users do, for recipes that act in the tower, inside the language model or in its cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from streamprune.embedded.world import Clip
from streamprune.metrics.flops import DecoderShape
from streamprune.models.base import VideoFamily
from streamprune.pipelines.answers import Answer, Stats
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import open_source
from streamprune.recipe import Recipe

# the longest answer of the world has four words
_MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Cost:
    """What answers took in the language model, as shares of what they take with every token.

    Attributes:
        prefill_flops: operations for the prompt.
        kv_bytes: the key-value cache after the answer.
    """

    prefill_flops: float
    kv_bytes: float


@dataclass
class Asker:
    """Asks ``family``'s model about clips, one question after the other."""

    family: VideoFamily

    @cached_property
    def _vlm(self) -> VideoLLM:
        return VideoLLM(self.family)

    def answers(
        self, recipe: Recipe, keep_ratio: float | None, clips: Sequence[Clip]
    ) -> Iterator[tuple[Clip, list[Answer]]]:
        """Every clip with the answers to its questions; None leaves the recipe's own budget."""
        for clip in clips:
            num_frames = None if "frames" in recipe.stages else clip.num_frames
            texts = [question.text for question in clip.questions]
            # an array alone would be taken for one frame a second; some models read times
            with open_source(clip.frames, fps=clip.fps) as video:
                found = self._vlm.ask(
                    video,
                    texts,
                    recipe=recipe,
                    keep_ratio=keep_ratio,
                    num_frames=num_frames,
                    max_new_tokens=_MAX_NEW_TOKENS,
                )
            yield clip, found

    def cost(self, stats: Sequence[Stats]) -> Cost:
        """What all of them took together."""
        shape = DecoderShape.from_config(self.family.text_config)
        entry_bytes = 2 * shape.layers * shape.key_value_width * self.family.model.dtype.itemsize
        flops = full_flops = held = full_held = 0
        for one in stats:
            prompt = one.prompt_tokens + one.tokens_in - one.tokens_kept
            flops += one.prefill_flops
            full_flops += shape.prefill_flops(prompt)
            held += one.kv_bytes
            full_held += (prompt + one.new_tokens - 1) * entry_bytes
        return Cost(flops / full_flops, held / full_held)
