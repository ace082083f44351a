"""VLA-Pruner: what the prompt looks at now, and what the answers of the last steps looked at."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.in_llm.todre import mean_attention
from streamprune.ops.farthest import farthest_points
from streamprune.ops.selection import highest, marked

_RELEASED = Budget(keep_ratio=0.5)

Rows = Literal["last", "all"]


class PastAttention:
    """What the answers of earlier prompts looked at, one map of all visual tokens for each.

    Prompts of a batch have maps of their own, by their place in the batch. Threads may share it, but then
    their prompts count as one sequence.

    Args:
        longest: how many maps are remembered.
    """

    def __init__(self, longest: int = 16) -> None:
        check_count("longest", longest)
        self._longest = longest
        self._maps: dict[int, deque[torch.Tensor]] = {}
        self._lock = threading.Lock()

    def note(self, prompt: int, seen: torch.Tensor) -> None:
        """Remember the (visual,) map ``seen`` of place ``prompt`` in the batch."""
        with self._lock:
            self._maps.setdefault(prompt, deque(maxlen=self._longest)).append(seen)

    def latest(self, prompt: int, count: int, visual: int) -> list[torch.Tensor]:
        """The last ``count`` maps of place ``prompt``, oldest first; maps not of ``visual`` tokens end it."""
        with self._lock:
            maps = list(self._maps.get(prompt, ()))
        found: list[torch.Tensor] = []
        for seen in reversed(maps[len(maps) - min(count, len(maps)) :]):
            if len(seen) != visual:
                break
            found.insert(0, seen)
        return found

    def clear(self) -> None:
        """Forget everything: another episode begins."""
        with self._lock:
            self._maps.clear()


@dataclass(frozen=True, kw_only=True)
class VLAPruner(InLLMMethod):
    """Of the tokens best by attention now or in the last steps, keep those that differ most.

    Now: the attention of the last row in the layer below, mean over heads. Last steps: what the last row,
    from which the answer comes, gave to each place of the grid at ``history_layer`` in each of the last
    ``window`` prompts (nothing to a token that had been dropped), each step back counting ``decay`` times as
    much. The best of both are joined; when these are more than may stay, the token farthest from its nearest
    pick is picked again and again (1 - cosine of what entered the language model).

    Made for a camera that stands still and prompts that follow each other through one method: a block of
    ``accelerate`` around the calls of a control loop. Until ``window`` prompts with as many visual tokens
    have been answered, nothing is dropped. A recipe makes its method anew for every ``ask``: there it takes
    ``window=0``, or a ``history`` of one's own.

    ``keep_ratio`` (default 0.5): half a token is rounded to the even number, as in the release. Ties go to
    the token further ahead.

    Args:
        layer: the layer before which tokens are dropped; None = 3 of 32, scaled to the depth.
        window: steps looked back on; 0 = none, and tokens are dropped from the first prompt on.
        decay: weight of a step over that of the next, in [0, 1].
        history_layer: the layer of which the attention is remembered; None = 15 of 32, scaled to the depth,
            and always above ``layer``.
        rows: "last", or "all": the attention now is the mean over every row of the prompt.
        history: where it is remembered; one of its own unless given. Give the same to several methods, or
            clear it where an episode ends.

    Source: arXiv 2511.16449 and its release for OpenVLA, 256 tokens. One of the released versions weighs the
    oldest step most, another the newest, as is meant and done here. It remembers the mean over all tokens of
    the action; here that of the first, which the prompt's last row gives.
    """

    layer: int | None = None
    window: int = 3
    decay: float = 0.8
    history_layer: int | None = None
    rows: Rows = "last"
    history: PastAttention = field(default_factory=PastAttention, repr=False, compare=False)

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window", self.window, least=0)
        check_number("decay", self.decay, 0, 1)
        for name in ("layer", "history_layer"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.rows not in get_args(Rows):
            raise UnknownNameError.among("rows", self.rows, get_args(Rows))
        if not isinstance(self.history, PastAttention):
            raise InvalidTypeError(f"history must be a PastAttention, got {self.history!r}")

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer, and that where attention is remembered."""
        layer = scaled_layer(3, 32, depth) if self.layer is None else self.layer
        if self.window == 0:
            return (layer,)
        later = self.history_layer
        if later is None:
            return layer, max(layer + 1, scaled_layer(15, 32, depth))
        if later <= layer:
            raise InvalidValueError(f"history_layer must be above the layer {layer}, got {later}")
        return layer, later

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        if view.cut == 1:
            return self._remember(view)
        past = self.history.latest(view.prompt, self.window, view.visual_at_first)
        if len(past) < self.window:
            chosen = torch.arange(len(view.visual), device=view.visual.device)
        else:
            chosen = self._chosen(view, past)
        return Decision(view.kept_with_text(chosen), carried=chosen)

    def _chosen(self, view: PromptView, past: list[torch.Tensor]) -> torch.Tensor:
        budget = self.budget if self.budget.is_given else _RELEASED
        visual = len(view.visual)
        count = budget.tokens(visual, rounding="half_even")
        good = marked(highest(self.scores(view), count), visual)
        if past:
            good |= marked(highest(smoothed(past, self.decay).to(good.device), count), visual)
        either = good.nonzero()[:, 0]
        if len(either) == count:
            return either
        return either[farthest_points(view.embeds[view.visual[either]], count)].sort().values

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) what each visual token is given now."""
        if self.rows == "last":
            return last_row_scores(view.before.attention(view.last), view.visual)
        rows = torch.arange(view.rows, device=view.visual.device)
        return mean_attention(view.before, rows)[view.visual]

    def _remember(self, view: PromptView) -> Decision:
        """Note what the last row looks at here; everything goes on."""
        seen = last_row_scores(view.at.attention(view.last), view.visual)
        whole = seen.new_zeros(view.visual_at_first)
        whole[view.carried] = seen
        self.history.note(view.prompt, whole)
        return Decision(torch.arange(view.rows, device=view.visual.device))


def smoothed(past: list[torch.Tensor], decay: float) -> torch.Tensor:
    """(visual,) float32 weighted mean of maps, oldest first, each weighing ``decay`` times the next."""
    weights = torch.tensor([decay**age for age in range(len(past))][::-1])
    stacked = torch.stack([seen.float() for seen in past])
    return (weights.to(stacked.device)[:, None] * stacked).sum(0) / weights.sum().to(stacked.device)
