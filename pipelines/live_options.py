"""What a stream is opened with, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from streamprune.budget import Budget, read_bytes
from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError
from streamprune.pipelines.request import AnswerRequest, read_encoder
from streamprune.readers.base import check_fps
from streamprune.recipe import Choice, Recipe
from streamprune.registry import build_method, list_methods

if TYPE_CHECKING:
    from streamprune.cache.ledger import Ledger
    from streamprune.cache.memory import MemoryMethod
    from streamprune.encoder.base import TowerMethod
    from streamprune.pipelines.live_reduce import CausalReducer

_STAGES = ("encoder", "pre_llm", "memory")
_DEFAULT_MEMORY = "tiered"
# what is given beside the pre-LLM method's own options
_OWN = (
    "answer_tokens", "answers_at_once", "bucket", "dialogue_bytes", "context_tokens", "clip_frames",
    "frame_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is watched.

    Attributes:
        recipe: what happens to frames before the language model, with what the memory brings itself.
        memory: how they are remembered.
        memory_bytes: most bytes that the stream may hold, whatever for.
        fps: most frames a second, and the rate of frames without times.
        gate: options of the frame gate; None = no gate.
        spill_folder, spill_bytes: where and how much may go to disk.
        answer_tokens: most tokens of a question, what is remembered of the dialogue, and an answer, together.
        dialogue_bytes: most bytes of what was said before.
        frame_bytes: for decoded pictures that wait; None = an eighth of ``memory_bytes``, at most 32 MiB.
        context_tokens: most tokens that the model sees at once besides; None = as many as a clip of
            ``clip_frames`` has. Far beyond what a model was trained on it sees next to nothing.
        clip_frames: pictures are as large as in a clip of so many frames, where that matters to the model;
            None = as many as the family looks at when nobody says.
        answers_at_once: working copies that are set aside; further questions wait for their turn.
        bucket: whether tokens that quiet frames do not need are saved for busy ones; the budget is that of a
            frame on average then.
        frame_size: (rows, cols) that is planned for until the first frame is there, where that matters.
        options: the pre-LLM method's own.
    """

    recipe: Recipe
    memory: MemoryMethod
    memory_bytes: int
    fps: Fraction | None = None
    gate: Mapping[str, Any] | None = field(default_factory=lambda: MappingProxyType({}))
    spill_folder: Path | None = None
    spill_bytes: int = 0
    answer_tokens: int = 256
    dialogue_bytes: int = 4096
    frame_bytes: int | None = None
    context_tokens: int | None = None
    clip_frames: int | None = None
    frame_size: tuple[int, int] = (480, 640)
    answers_at_once: int = 1
    bucket: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(
        cls,
        recipe: str | Path | Recipe | None,
        memory: str | MemoryMethod | None,
        memory_bytes: int | str,
        *,
        keep_ratio: float | None = None,
        keep_tokens: int | None = None,
        memory_options: Mapping[str, Any] | None = None,
        fps: float | Fraction | None = None,
        gate: bool | Mapping[str, Any] = True,
        spill_folder: str | Path | None = None,
        spill_bytes: int | str = 0,
        frame_bytes: int | str | None = None,
        **options: Any,
    ) -> StreamOptions:
        """The options as a user gives them.

        Args:
            recipe: methods of the stages encoder and pre_llm, maybe memory.
            memory: name of a memory, or one; None: the recipe's, or "tiered".
            memory_bytes: a number, or "256MB", "1GiB".
            keep_ratio, keep_tokens: share of each frame's visual tokens that is KEPT, in (0, 1], or their
                number.
            memory_options: of a memory given by name.
            fps: at most so many frames a second are taken in; also the rate of frames without times (1).
            gate: whether near duplicates are skipped, or options of the gate that does it.
            spill_folder, spill_bytes: where memories that can do so may put so many bytes on disk.
            frame_bytes: see :class:`StreamOptions`.
            **options: answer_tokens, answers_at_once, bucket, dialogue_bytes, context_tokens, clip_frames
                and frame_size of :class:`StreamOptions`; the others are the pre-LLM method's own.

        Raises UsageError.
        """
        given = Recipe.resolve(recipe)
        method = _memory(given, memory, memory_options or {})
        budget_given = (keep_ratio, keep_tokens) != (None, None)
        chosen = _completed(given, method, budget_given=budget_given)
        if recipe is None and method.pre_llm_default is None and budget_given:
            raise InvalidValueError(
                "keep_ratio and keep_tokens need a method that chooses what stays: give recipe=, e.g. 'stc'"
            )
        found = cls(
            recipe=chosen.with_budget(keep_ratio, keep_tokens),
            memory=method,
            memory_bytes=read_bytes("memory_bytes", memory_bytes),
            fps=None if fps is None else check_fps("fps", fps),
            gate=_gate(gate),
            spill_folder=None if spill_folder is None else Path(spill_folder).expanduser(),
            spill_bytes=read_bytes("spill_bytes", spill_bytes, least=0),
            frame_bytes=None if frame_bytes is None else read_bytes("frame_bytes", frame_bytes, least=0),
            **{name: options.pop(name) for name in _OWN if name in options},
            options=MappingProxyType(options),
        )
        found.check()
        return found

    def check(self) -> None:
        """Raise UsageError for what cannot be meant."""
        check_count("answer_tokens", self.answer_tokens, least=2)
        check_count("answers_at_once", self.answers_at_once)
        check_count("dialogue_bytes", self.dialogue_bytes, least=0)
        for name in ("context_tokens", "clip_frames"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        size = self.frame_size
        if not isinstance(size, tuple) or len(size) != 2:
            raise InvalidTypeError(f"frame_size must be (rows, cols), got {size!r}")
        for side in size:
            check_count("frame_size", side)
        if self.spill_bytes and self.spill_folder is None:
            raise RecipeError("spill_bytes= needs spill_folder=, where they are to go")
        for stage in self.recipe.stages:
            if stage not in _STAGES:
                raise RecipeError(
                    f"the recipe {self.recipe.name!r} has a stage {stage!r}, which a stream does not carry "
                    "out: memory= decides what its language model remembers; it does encoder and pre_llm"
                )
        check_flag("bucket", self.bucket)
        self.request()

    def request(self) -> AnswerRequest:
        """What builds the methods."""
        return AnswerRequest((), self.recipe, self.options)

    def reducer(self, tokens_per_frame: int, frames_per_second: float, ledger: Ledger) -> CausalReducer:
        """The method before the language model, for frames of so many tokens.

        Raises InvalidValueError or InvalidTypeError for one that looks at later frames, or reads a question.
        """
        from streamprune.pipelines.live_reduce import CausalReducer, bucket_of

        if not self.bucket:
            return CausalReducer(self.request().method(), ledger=ledger)
        budget, plain = self.recipe.budget, replace(self.recipe, budget=Budget())
        method = AnswerRequest((), plain, self.options).method()
        return CausalReducer(method, bucket_of(budget, tokens_per_frame, frames_per_second), ledger=ledger)

    def encoder(self) -> TowerMethod | None:
        """The method inside the vision tower."""
        return read_encoder(self.recipe)

    def for_queues(self, memory_bytes: int) -> int:
        """Bytes for decoded pictures that wait, of so many in all."""
        return min(32 * 2**20, memory_bytes // 8) if self.frame_bytes is None else self.frame_bytes


def _memory(recipe: Recipe, memory: str | MemoryMethod | None, options: Mapping[str, Any]) -> MemoryMethod:
    from streamprune.cache.memory import MemoryMethod

    if "memory" in recipe.stages:
        if memory is not None:
            raise RecipeError(
                f"the recipe {recipe.name!r} names a memory, and memory= does too; give one of them"
            )
        built = recipe.build("memory", **options)
    elif isinstance(memory, str) or memory is None:
        built = build_method("memory", memory or _DEFAULT_MEMORY, options)
    else:
        built = memory
        if options:
            raise RecipeError(
                "memory_options belong to a memory given by name; set them on the object itself"
            )
    if not isinstance(built, MemoryMethod):
        raise InvalidTypeError(
            f"memory must be a name or a streamprune.cache.memory.MemoryMethod, got {memory!r}"
        )
    return built


def _completed(recipe: Recipe, memory: MemoryMethod, *, budget_given: bool) -> Recipe:
    """``recipe`` with the parts that the design of ``memory`` brings, where it names none."""
    stages, budget = dict(recipe.stages), recipe.budget
    budget_given = budget_given or recipe.budget.is_given
    named = stages.get("pre_llm")
    if memory.pre_llm_default is not None and (named is None or named.method == "none"):
        brought = {} if budget_given else dict(memory.pre_llm_options)
        own = {name: brought.pop(name) for name in ("keep_ratio", "keep_tokens") if name in brought}
        budget = Budget(**own) if own else budget
        stages["pre_llm"] = Choice(memory.pre_llm_default, MappingProxyType(brought))
    if memory.encoder_default is not None and "encoder" not in stages:
        stages["encoder"] = Choice(memory.encoder_default)
    return replace(recipe, stages=MappingProxyType(stages), budget=budget)


def _gate(gate: object) -> Mapping[str, Any] | None:
    if gate is True:
        return MappingProxyType({})
    if gate is False or gate is None:
        return None
    if isinstance(gate, Mapping):
        return MappingProxyType(dict(gate))
    raise InvalidTypeError(f"gate must be True, False or options of the frame gate, got {gate!r}")


def memory_settings(memory: MemoryMethod) -> tuple[str, dict[str, Any]]:
    """Name and options with which ``memory`` is made again.

    Raises RecipeError for a class that is not registered.
    """
    for row in list_methods("memory"):
        if row.load() is type(memory):
            return row.name, asdict(memory)  # type: ignore[call-overload]
    raise RecipeError(
        f"{type(memory).__name__} is not registered, so that a saved stream could not name it: call "
        "streamprune.register_method(..., stage='memory') first"
    )
