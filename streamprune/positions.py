"""Where what is left of a prompt stands: the choice of a rule, without any arithmetic. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError

PositionRule = Literal["keep", "renumber", "clipped"]
POSITION_RULES: tuple[PositionRule, ...] = get_args(PositionRule)
TextAfter = Literal["stock", "max"]
TEXT_AFTER: tuple[TextAfter, ...] = get_args(TextAfter)

# the shortest power of two that costs the embedded model no answers (a frame of its tokens takes 36)
DEFAULT_MAX_GAP = 64


@dataclass(frozen=True)
class Positions:
    """Which rotary positions a shortened prompt gets.

    Args:
        rule: "keep" leaves every token where it was in the full prompt, so that dropped tokens leave gaps;
            "renumber" counts 0, 1, 2, ... over what is left, on every axis alike; "clipped" leaves at most
            ``max_gap`` of each run of positions that no kept token has on any axis. The order on every axis,
            and what stood at the same position, stay as they are.
        max_gap: for "clipped", at least 0; None is DEFAULT_MAX_GAP.
        text_after: where text behind a video starts: "stock" as the loaded model's own rule has it; "max"
            one behind the furthest position of the video on any axis, as the Qwen2-VL and Qwen2.5-VL models
            were trained and transformers had it up to 5.2. In all other families the two agree.

    Source: keeping positions and order is the finding of arXiv 2506.21873; "clipped" is its remedy for
    videos that reach beyond the positions a model was made for, and not in the paper.
    """

    rule: PositionRule = "keep"
    max_gap: int | None = None
    text_after: TextAfter = "stock"

    def __post_init__(self) -> None:
        if self.rule not in POSITION_RULES:
            raise UnknownNameError.among("positions rule", self.rule, POSITION_RULES)
        if self.text_after not in TEXT_AFTER:
            raise UnknownNameError.among("text_after", self.text_after, TEXT_AFTER)
        if self.max_gap is None:
            return
        check_count("max_gap", self.max_gap, least=0)
        if self.rule != "clipped":
            raise InvalidValueError(
                f"max_gap={self.max_gap!r} is for positions='clipped', got {self.rule!r}; leave it out"
            )

    @classmethod
    def read(cls, given: PositionRule | Positions | Mapping[str, Any]) -> Positions:
        """The choice that ``given`` stands for: a rule's name, the choice itself, or its fields by name."""
        if isinstance(given, Positions):
            return given
        if isinstance(given, Mapping):
            for name in given:
                if name not in cls.__dataclass_fields__:
                    raise UnknownNameError.among("positions option", name, list(cls.__dataclass_fields__))
            return cls(**given)
        if not isinstance(given, str):
            raise InvalidTypeError(
                f"positions must be one of {', '.join(POSITION_RULES)} or a Positions, got {given!r}"
            )
        return cls(given)

    @property
    def gap(self) -> int:
        """Longest run of empty positions that "clipped" leaves."""
        return DEFAULT_MAX_GAP if self.max_gap is None else self.max_gap
