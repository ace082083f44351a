"""Which pre-LLM methods can stand in for vLLM's video pruner, and one of them at work. Knows nothing of vLLM.

vLLM asks twice. While it builds the prompt: how many tokens of this video stay, told only the frames and the
tokens of one frame. When the vision tower has run: which of the tokens, told their features and nothing else.
A method can be served when the first answer does not depend on the second and no signal but the features is
needed. Merged tokens stand in the row of their representative, whose position they take.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

from streamprune.budget import Budget
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import run_reducer
from streamprune.registry import build_method, get_method, list_methods
from streamprune.tokens import Reduction, VideoGrid, VisualTokens, all_finite

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("streamprune.integrations.vllm")

# what refusals are told by; every prompt is checked again on its own grid
_TRIED_RATES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_TRIED_FRAMES = (1, 2, 3, 8, 17, 32)
_TRIED_FRAME_TOKENS = (1, 6, 16, 60, 196)


@dataclass(frozen=True, kw_only=True)
class VideoPruner:
    """A pre-LLM method in the place of vLLM's video pruner.

    Args:
        method: name of a pre-LLM method.
        options: the method's own options; how much stays is the engine's to say.

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError: of the method; InvalidValueError also when it
            cannot be served, with what it lacks.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "budget" in self.options:
            raise InvalidValueError("budget is not an option here: --video-pruning-rate says how much goes")
        lacking = _lacks(self.method, self.options)
        if lacking is not None:
            raise InvalidValueError(
                f"vLLM cannot serve the pre_llm method {self.method!r}: {lacking}. "
                f"It can serve: {', '.join(name for name, why in servable_methods().items() if why is None)}"
            )

    def count(self, tokens_per_frame: int, frames: int, rate: float) -> int:
        """Tokens of a video that stay when the share ``rate`` in [0, 1) is pruned; at least 1.

        Raises InvalidValueError when the method cannot tell that from these numbers alone.
        """
        return self._count(tokens_per_frame, frames, _kept_share(rate))

    def mask(
        self, features: torch.Tensor, grid: VideoGrid, rate: float, *, scored_channels: int | None = None
    ) -> torch.Tensor:
        """Decide which tokens stay, and write merged ones into the rows of their representatives.

        Args:
            features: ``(tokens, channels)``; changed in place by a method that merges, and by no other.
            rate: share pruned, in [0, 1).
            scored_channels: so many leading channels are the token as the language model first sees it; the
                others share its fate. None = all.

        Returns:
            ``(tokens,)`` bool, as many of them True as :meth:`count` says.

        Raises:
            InvalidValueError: the method kept another number than it announced.
        """
        import torch

        reduction = self.reduce(features, grid, rate, scored_channels=scored_channels)
        announced = self.count(grid.tokens_per_frame, grid.frames, rate)
        mask = torch.zeros(grid.tokens, dtype=torch.bool, device=features.device)
        mask[reduction.index[reduction.index >= 0]] = True
        kept = int(mask.sum())
        if kept != announced or len(reduction) != announced:
            raise InvalidValueError(
                f"the pre_llm method {self.method!r} announced {announced} tokens of {grid} and kept {kept} "
                f"in {len(reduction)} rows; vLLM's prompt has room for exactly the announced ones"
            )
        if reduction.entries is not None:
            own = features.shape[1] if scored_channels is None else scored_channels
            features[reduction.index, :own] = reduction.features
            if reduction.carried is not None:
                features[reduction.index, own:] = reduction.carried
        return mask

    def reduce(
        self, features: torch.Tensor, grid: VideoGrid, rate: float, *, scored_channels: int | None = None
    ) -> Reduction:
        """The decision behind :meth:`mask`; what is not finite counts as 0: no video may end a server."""
        if not all_finite(features):
            logger.warning("a video has features that are NaN or infinite; %r scores them as 0", self.method)
            features = features.nan_to_num(0.0, 0.0, 0.0)
        own = features.shape[1] if scored_channels is None else scored_channels
        carried = features[:, own:] if own < features.shape[1] else None
        tokens = VisualTokens(features[:, :own], grid, carried=carried)
        return run_reducer(self._build(_kept_share(rate)), tokens)

    @cached_property
    def _counts(self) -> dict[tuple[int, int, float], int]:
        return {}

    def _count(self, tokens_per_frame: int, frames: int, keep_ratio: float) -> int:
        """:meth:`count`, remembered: servers see the same few grids again and again."""
        asked = (tokens_per_frame, frames, keep_ratio)
        if asked not in self._counts:
            if len(self._counts) >= 4096:
                self._counts.clear()
            counted, lacking = _count_of(self._build(keep_ratio), tokens_per_frame, frames)
            if counted is None:
                raise InvalidValueError(
                    f"vLLM cannot serve the pre_llm method {self.method!r} for {frames} frames of "
                    f"{tokens_per_frame} tokens at keep_ratio {keep_ratio:g}: {lacking}"
                )
            self._counts[asked] = counted
        return self._counts[asked]

    def _build(self, keep_ratio: float) -> PreLLMMethod:
        built: PreLLMMethod = build_method(
            "pre_llm", self.method, {**self.options, "budget": Budget(keep_ratio)}
        )
        return built


def servable_methods() -> dict[str, str | None]:
    """Every pre-LLM method by name: None where vLLM can serve it as it stands, else what it lacks."""
    return {row.name: _lacks(row.name, {}) for row in list_methods("pre_llm")}


def _kept_share(rate: object) -> float:
    """What stays when ``rate`` goes; 0.9 leaves 0.1 and not 0.09999999999999998."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise InvalidTypeError(f"the video pruning rate must be a number in [0, 1), got {rate!r}")
    if not 0 <= float(rate) < 1:  # also refuses NaN
        raise InvalidValueError(f"the video pruning rate must be in [0, 1), the share REMOVED; got {rate!r}")
    return round(1 - float(rate), 12) or 1e-12


def _lacks(name: str, options: Mapping[str, Any]) -> str | None:
    """Why vLLM cannot serve the method, or None."""
    row = get_method("pre_llm", name)
    if not issubclass(row.load(), PreLLMMethod):
        return "it is no PreLLMMethod, so it cannot say beforehand how many tokens stay"
    if row.may_repeat:
        return "it can keep a token twice, and a mask cannot"
    for rate in _TRIED_RATES:
        method = build_method("pre_llm", name, {**options, "budget": Budget(_kept_share(rate))})
        if method.needs:
            given = "signal" if len(method.needs) == 1 else "signals"
            return f"it needs the {given} {', '.join(method.needs)}, and vLLM gives features only"
        for frames in _TRIED_FRAMES:
            for tokens_per_frame in _TRIED_FRAME_TOKENS:
                counted, lacking = _count_of(method, tokens_per_frame, frames)
                if counted is None:
                    return lacking
    return None


def _count_of(method: PreLLMMethod, tokens_per_frame: int, frames: int) -> tuple[int | None, str]:
    """Tokens that stay whatever the rows and columns are, or None and why that cannot be said."""
    found = set()
    for rows in range(1, tokens_per_frame + 1):
        if tokens_per_frame % rows == 0:
            found.add(method.count(VideoGrid(frames, rows, tokens_per_frame // rows)))
    if None in found:
        return None, "how many tokens stay depends on what is in the video"
    if len(found) > 1:
        return None, (
            "how many tokens stay depends on a frame's rows and columns, and vLLM tells their product only"
        )
    return found.pop(), ""
