"""Which rotary positions a shortened prompt gets, for models that count positions along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from streamprune.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

PositionRule = Literal["keep", "renumber"]
POSITION_RULES: tuple[PositionRule, ...] = get_args(PositionRule)


def check_position_rule(rule: object) -> None:
    """Raise UnknownNameError unless ``rule`` is one of POSITION_RULES."""
    if rule not in POSITION_RULES:
        raise UnknownNameError.among("positions rule", rule, POSITION_RULES)


def positions_1d(
    kept: torch.Tensor, *, before: int, visual: int, after: int, rule: PositionRule = "keep"
) -> torch.Tensor:
    """Positions of a prompt: text, what was kept of the visual rows, text.

    Args:
        kept: (kept,) int64, place of every kept row among the ``visual`` rows of the full prompt.
        before: text tokens ahead of the visual rows.
        visual: visual rows of the full prompt.
        after: text tokens behind them.
        rule: "keep" leaves every token where it was in the full prompt, so dropped tokens leave gaps;
            "renumber" counts 0, 1, 2, ... over what is left.

    Returns:
        (1, before + kept + after) int64 on the device of ``kept``.
    """
    import torch

    check_position_rule(rule)
    device = kept.device
    if rule == "renumber":
        return torch.arange(before + len(kept) + after, device=device)[None]
    head = torch.arange(before, device=device)
    tail = torch.arange(before + visual, before + visual + after, device=device)
    return torch.cat([head, before + kept, tail])[None]
