"""Videos encoded once for all candidates, and what the signals of each add to the tower's time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from streamprune.metrics.memory import tensor_bytes
from streamprune.pipelines.encoding import EncodedVideo
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.tuning_candidates import Candidate
from streamprune.recipe import Choice, Recipe
from streamprune.registry import Stage

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM

Needs = tuple[str, ...]

# what is encoded stays in memory for the next round, up to so many bytes
_HELD_BYTES = 2 * 2**30
# a video is encoded so often with the signals of each candidate, in turn, to see what they cost
_ROUNDS = 3


@dataclass(frozen=True)
class Look:
    """How videos are looked at: what candidates share that can share an encoding."""

    recipe: Recipe
    num_frames: int | None

    @classmethod
    def of(cls, candidate: Candidate) -> Look:
        """That of ``candidate``: its stages up to the vision tower."""
        stages: dict[Stage, Choice] = {
            stage: choice
            for stage, choice in candidate.recipe.stages.items()
            if stage in ("frames", "encoder")
        }
        return cls(Recipe("look", stages), candidate.num_frames)

    @property
    def name(self) -> str:
        """The same for equal looks."""
        return f"{self.recipe.to_toml()} {self.num_frames}"


@dataclass(frozen=True)
class Seen:
    """An encoded video, and milliseconds until its tokens are there for one candidate."""

    video: EncodedVideo
    ms: float


class Encodings:
    """Encodes each video once for every way to look, and holds what fits.

    Args:
        candidates: all that will be asked for, the full model included. The signals of those that share an
            encoding are computed in one go; what of it each would have to wait for by itself is measured on
            the first video.
    """

    def __init__(self, vlm: VideoLLM, candidates: Sequence[Candidate]) -> None:
        self._vlm = vlm
        self._needs: dict[str, set[Needs]] = {}
        for one in candidates:
            self._needs.setdefault(Look.of(one).name, set()).add(tuple(sorted(one.needs())))
        self._held: OrderedDict[tuple[str, ...], EncodedVideo] = OrderedDict()
        self._factors: dict[str, dict[Needs, float]] = {}

    def get(self, job: JobLine, candidate: Candidate) -> Seen:
        """What ``candidate`` is shown of the video of ``job``."""
        look = Look.of(candidate)
        if look.name not in self._factors:
            self._factors[look.name] = self._measure(job, look)
        key = (look.name, str(job.video), f"{job.start_seconds} {job.end_seconds}")
        if key not in self._held:
            self._held[key] = self._encode(job, look, self._all(look))
            self._let_go()
        self._held.move_to_end(key)
        video = self._held[key]
        factor = self._factors[look.name][tuple(sorted(candidate.needs()))]
        ms = video.decode_ms + video.preprocess_ms + video.choose_ms + factor * video.encode_ms
        return Seen(video, ms)

    def _all(self, look: Look) -> Needs:
        return tuple(sorted({name for needs in self._needs[look.name] for name in needs}))

    def _encode(self, job: JobLine, look: Look, signals: Needs) -> EncodedVideo:
        return self._vlm.encode(
            job.video,
            recipe=look.recipe,
            num_frames=look.num_frames,
            start_seconds=job.start_seconds,
            end_seconds=job.end_seconds,
            signals=signals,
        )

    def _measure(self, job: JobLine, look: Look) -> dict[Needs, float]:
        """The tower's time with the signals of each, over its time with the signals of all."""
        every = self._all(look)
        asked = sorted(self._needs[look.name])
        if asked == [every]:
            return {every: 1.0}
        self._encode(job, look, every)  # the first time takes longer
        ratios: dict[Needs, list[float]] = {needs: [] for needs in asked}
        for _ in range(_ROUNDS):
            whole = self._encode(job, look, every).encode_ms
            for needs in asked:
                ratios[needs].append(self._encode(job, look, needs).encode_ms / whole)
        return {needs: median(found) for needs, found in ratios.items()}

    def _let_go(self) -> None:
        """Forget what was not asked for longest, but never the last one."""
        while len(self._held) > 1 and sum(map(_bytes, self._held.values())) > _HELD_BYTES:
            self._held.popitem(last=False)


def _bytes(video: EncodedVideo) -> int:
    tokens = video.tokens
    return tensor_bytes([tokens.features, *(tokens.signals[name] for name in tokens.signals)])


def full_candidate(num_frames: int | None) -> Candidate:
    """The model as it is, with every token of ``num_frames`` frames."""
    return Candidate(replace(Recipe.named("none"), name="full"), num_frames)
