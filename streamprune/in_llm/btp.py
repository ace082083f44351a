"""BTP: early stages keep tokens that differ and lie apart, late ones what the last row looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of, whole_tokens
from streamprune.in_llm.base import Decision, PromptView
from streamprune.in_llm.fastv import last_row_scores
from streamprune.in_llm.stages import StagedMethod
from streamprune.ops.farthest import farthest_points
from streamprune.ops.selection import highest
from streamprune.tokens import VideoGrid


@dataclass(frozen=True)
class Mix:
    """How a stage shares out the tokens it keeps.

    Args:
        attended: share picked by attention.
        candidates: how many times as many are looked at for that.
        unlike: share picked to be unlike each other.
        spread: share of the ORIGINAL tokens picked to lie apart.
    """

    attended: float
    candidates: float
    unlike: float = 0.0
    spread: float = 0.0


# the last stage drops everything; told to keep some, it goes on as the one before
_MIXES = (Mix(0.3, 3.7, 0.3, 0.25), Mix(0.9, 1.5, 0.1), Mix(1.0, 1.2), Mix(1.0, 1.2))


@dataclass(frozen=True, kw_only=True)
class BTP(StagedMethod):
    """Mix tokens that are attended to, that are unlike each other, and that lie apart in the frame.

    By attention (the last row's in the layer below, mean over heads): more candidates are taken than places
    are free; those among the first tokens, as many as the stage keeps, go first, and others get what is left,
    as attention favours what stands near the end of the prompt. Unlike each other: the token farthest from
    all picked ones (1 - cosine of the states) is picked next. Apart: the same by rows and columns between,
    in every frame from its first token on. What is still free goes to tokens unlike those picked.

    Stage by stage 30 %, 90 % and all of the kept tokens are picked by attention (out of 3.7, 1.5 and 1.2
    times as many), 30 %, 10 % and none for being unlike, and the first stage picks a quarter of the original
    tokens for lying apart.

    Args:
        layers: the layers before which tokens are dropped; None = 3, 6, 14 and 22 of 32, scaled to the depth.
        shares: share of the ORIGINAL visual tokens kept at each of them; None = a half, a quarter, a twelfth
            and nothing. With ``keep_ratio`` or ``keep_tokens`` the shares fall by the same factor at every
            layer, to what is left after the last.

    Numbers of tokens are rounded down, never less than one but for a share of 0. Ties go to the token further
    ahead.

    Source: arXiv 2505.22038 and its release for LLaVA-1.5, whose layers were found with a calibration set.
    There the tokens picked for being unlike in the second stage may be taken twice; here each counts once.
    Should the picks of the first stage be too many, the last ones that lie apart are left out; the release
    then keeps all. Its grid is one image; here every frame is one, and without a grid tokens stand in a line.
    """

    needs: ClassVar[tuple[str, ...]] = ("attention", "states", "grid")
    published: ClassVar[tuple[tuple[int, float], ...]] = ((3, 1 / 2), (6, 1 / 4), (14, 1 / 12), (22, 0.0))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = min(self.count(view.cut, view.depth, view.visual_at_first), len(view.visual))
        if count == len(view.visual):
            return Decision(torch.arange(view.rows, device=view.visual.device))
        if count == 0:
            return Decision(view.kept_with_text(view.visual[:0]))
        mix = _MIXES[self.stage(view.cut, view.depth)]
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        states = view.states[view.visual]
        chosen = attended(scores, count, mix)
        unlike = share_of(count, mix.unlike, rounding="truncate")
        if unlike > 0:
            chosen = _joined(chosen, farthest_points(states, unlike), count)
        if mix.spread > 0:
            apart = share_of(view.visual_at_first, mix.spread, rounding="truncate")
            chosen = _joined(chosen, spread_out(*_places(view), apart), count)
        if len(chosen) < count:
            chosen = torch.cat([chosen, farthest_points(states, count - len(chosen), chosen=chosen)])
        return Decision(view.kept_with_text(chosen))


def attended(scores: torch.Tensor, count: int, mix: Mix) -> torch.Tensor:
    """Tokens picked by attention, of ``count`` that the stage keeps; candidates among the first go first."""
    wanted = share_of(count, mix.attended, rounding="truncate")
    candidates = highest(scores, whole_tokens(wanted * mix.candidates, rounding="truncate"))
    ahead, behind = candidates[candidates < count], candidates[candidates >= count]
    return torch.cat([ahead, behind])[:wanted]


def spread_out(frame: torch.Tensor, row: torch.Tensor, col: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` tokens, always the one with the most rows and columns between it and its nearest pick.

    Those of other frames are infinitely far. The first token is picked first; ties go to the lower index.

    Args:
        frame, row, col: (tokens,) int64 each.
    """
    farthest = torch.iinfo(row.dtype).max
    nearest = torch.full_like(row, farthest)
    picks: list[int] = []
    for _ in range(min(count, len(row))):
        pick = int(nearest.argmax())
        picks.append(pick)
        between = (row - row[pick]).abs() + (col - col[pick]).abs()
        nearest = torch.minimum(nearest, between.masked_fill(frame != frame[pick], farthest))
        nearest[pick] = -1
    return torch.tensor(picks, dtype=torch.int64, device=row.device)


def _places(view: PromptView) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame, row and column of every visual token; without a grid, its number in one line."""
    if view.grid is not None and view.places is not None:
        return view.grid.places(view.places)
    line = VideoGrid(1, 1, len(view.visual))
    return line.places(torch.arange(line.cols, device=view.visual.device))


def _joined(chosen: torch.Tensor, more: torch.Tensor, count: int) -> torch.Tensor:
    """``chosen`` and those of ``more`` that are not among them, ``count`` at most."""
    return torch.cat([chosen, more[torch.isin(more, chosen, invert=True)]])[:count]
