"""How the questions of a batch are answered, as it is sent to every worker. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from streamprune.budget import read_bytes
from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from streamprune.models.sampling import GREEDY, Sampling
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.journal import fingerprint
from streamprune.pipelines.request import AnswerRequest, read_recipe
from streamprune.readers.opening import BACKENDS
from streamprune.recipe import Recipe

# where and how fast a question is answered, not what the answer is
_PLACE = ("device", "videos_per_batch", "cache_folder", "cache_bytes")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What all questions of a batch share; the names are those of ``load`` and ``ask``.

    Args:
        videos_per_batch: questions that go through the language model at once, each about its own tokens.
        cache_folder: where encoded videos are kept; None keeps none.
        cache_bytes: at most so much.
    """

    model: str = "embedded"
    device: str | None = None
    dtype: str | None = None
    recipe: Recipe = field(default_factory=lambda: read_recipe(None))
    frames: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    max_new_tokens: int = 64
    sampling: Sampling = GREEDY
    backend: str = "pyav"
    videos_per_batch: int = 1
    cache_folder: str | None = None
    cache_bytes: int | str = "4GiB"

    def __post_init__(self) -> None:
        if self.frames is not None and not isinstance(self.frames, str):
            raise InvalidTypeError(f"frames must be the name of a frames method, got {self.frames!r}")
        self.looks()
        self.request(())
        check_count("videos_per_batch", self.videos_per_batch)
        read_bytes("cache_bytes", self.cache_bytes)
        if self.backend not in BACKENDS:
            raise UnknownNameError.among("backend", self.backend, BACKENDS)
        if self.sampling.temperature and self.sampling.seed is None:
            raise InvalidValueError(
                f"temperature {self.sampling.temperature:g} draws other answers every time, and a batch that "
                "is taken up again must give the same: give seed=, too"
            )

    def looks(self, start_seconds: float | None = None, end_seconds: float | None = None) -> FrameRequest:
        """Which frames are looked at in a part of a video."""
        return FrameRequest(self.recipe, self.num_frames, self.fps, start_seconds, end_seconds, self.frames)

    def request(self, prompts: tuple[str, ...]) -> AnswerRequest:
        """What to answer to ``prompts``, from how many tokens."""
        return AnswerRequest(prompts, self.recipe, max_new_tokens=self.max_new_tokens, sampling=self.sampling)

    @property
    def run(self) -> str:
        """The same for the same answers, wherever they are computed."""
        plain = self.to_plain()
        return fingerprint({"batch": 1} | {name: plain[name] for name in plain if name not in _PLACE})

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON can say it."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {"recipe": self.recipe.to_toml(), "sampling": asdict(self.sampling)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`to_plain` gave, after its way through JSON."""
        sampling = plain["sampling"]
        return cls(
            **{
                **plain,
                "recipe": Recipe.from_toml(plain["recipe"]),
                "sampling": Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
            }
        )


@dataclass(frozen=True)
class Asked:
    """One question of a group."""

    id: str
    prompt: str


@dataclass(frozen=True)
class Group:
    """Questions about the same part of the same video, which is encoded once for all of them.

    Attributes:
        number: unique among the groups of a batch.
        deaths: workers that ended while they were at it.
    """

    number: int
    video: str
    start_seconds: float | None
    end_seconds: float | None
    questions: tuple[Asked, ...]
    deaths: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON can say it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`to_plain` gave, after its way through JSON."""
        return cls(**{**plain, "questions": tuple(Asked(**one) for one in plain["questions"])})


def groups_of(jobs: list[JobLine], settings: BatchSettings) -> list[Group]:
    """``jobs`` by video and part of it, in the order in which each comes first.

    Where frames are chosen by the question, each question is a group of its own.
    """
    alone = settings.looks().reads_question
    found: dict[tuple[Any, ...], list[JobLine]] = {}
    for job in jobs:
        shown = (job.video, job.start_seconds, job.end_seconds)
        found.setdefault((*shown, job.id) if alone else shown, []).append(job)
    return [
        Group(
            number,
            str(members[0].video.absolute()),
            members[0].start_seconds,
            members[0].end_seconds,
            tuple(Asked(job.id, job.prompt) for job in members),
        )
        for number, members in enumerate(found.values())
    ]
