"""Which visual tokens of each frame of a stream stay, decided by that frame and those before it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from streamprune.budget import Budget
from streamprune.cache.held_tensors import HeldTensors
from streamprune.cache.ledger import Ledger
from streamprune.cache.token_bucket import TokenBucket
from streamprune.checks import check_number
from streamprune.errors import InvalidValueError
from streamprune.models.base import EncodedFrames
from streamprune.pipelines.live_demand import Demand
from streamprune.pipelines.live_method import check_bucket, check_questions, counts_by_content, read_causal
from streamprune.pre_llm.base import History, PreLLMMethod
from streamprune.reduce import Reducer
from streamprune.reduction import Reduction
from streamprune.tokens import QUESTION_SIGNALS, VideoGrid, VisualTokens, all_finite

# of the average, what a frame without news gets from a bucket that was made of a budget
_FLOOR_SHARE = 0.25
# seconds of a stream that such a bucket saves for
_SAVED_SECONDS = 10


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What is left of one frame of tokens.

    Attributes:
        index: (kept,) int64, row * cols + col, ascending and unique.
        features: (kept, channels).
        carried: (kept, channels') what else the language model gets for each token; None = nothing.
        sizes: (kept,) float32, tokens that each stands for; None where none was merged.
        tokens_in: tokens of the frame before.
    """

    index: torch.Tensor
    features: torch.Tensor
    carried: torch.Tensor | None
    sizes: torch.Tensor | None
    tokens_in: int


class CausalReducer:
    """A pre-LLM method on the frames of one stream, in the order in which they come.

    How many tokens of a frame stay is said by the method (by a ratio or ``keep_tokens``, which here are of
    every frame, or by a threshold) or by ``bucket``. With a bucket a method with a threshold asks for as many
    as that lets stay, any other for as many as have changed (:class:`Demand`), and gets what was saved. Where
    a release would keep a token twice a stream keeps it once, and rows of zeros not at all.

    Args:
        method: whose ``causal`` is set; one of the user's own that has ``reduce`` and no ``step`` is shown
            every frame as if it were a clip.
        bucket: grants tokens; a method that keeps as many of every frame must come without a budget then.
        change_threshold: a token has changed when its cosine with the token last asked for at its place is
            below this, in [-1, 1]; None follows what is usual, see :class:`Demand`.
        standing: signals of a question that is asked all the time, for methods that read one.
        ledger: asked for what is remembered of earlier frames, tier "frames".

    Raises InvalidValueError, naming methods that would do, for a method that looks at frames to come or reads
    a question.
    """

    def __init__(
        self,
        method: Reducer,
        bucket: TokenBucket | None = None,
        *,
        change_threshold: float | None = None,
        standing: Mapping[str, torch.Tensor] = MappingProxyType({}),
        ledger: Ledger | None = None,
    ) -> None:
        if change_threshold is not None:
            check_number("change_threshold", change_threshold, -1, 1)
        self.method, self._keep = read_causal(method)
        check_questions(self.method, standing)
        if bucket is not None:
            check_bucket(self.method, self._keep)
        self.bucket = bucket
        self._standing = dict(standing)
        self._history = HeldTensors(ledger, "frames")
        self._demand = Demand(change_threshold, ledger)
        self._grid: VideoGrid | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals that every frame has to bring."""
        return tuple(name for name in getattr(self.method, "needs", ()) if name not in QUESTION_SIGNALS)

    def reduce(self, encoded: EncodedFrames, pts_seconds: float) -> KeptTokens:
        """Decide what stays of the next frame of tokens.

        A frame with another grid than the one before begins anew: its places are others.

        Args:
            encoded: one frame of tokens, with the signals that :attr:`needs` names.
            pts_seconds: when it is shown.

        Raises InvalidValueError or SignalError, and has not seen the frame then.
        """
        if len(encoded.features) != 1:
            raise InvalidValueError(f"encoded must be one frame of tokens, got {len(encoded.features)}")
        tokens = encoded.tokens({**encoded.signals, **self._standing}, (float(pts_seconds),))
        _check_finite(tokens)
        before = self._before(tokens.grid)
        if self.bucket is None:
            reduction, after = self._step(tokens, before, self._keep)
        else:
            reduction, after = self._granted(tokens, before, self.bucket, pts_seconds)
        self._grid = tokens.grid
        self._history.keep(after)
        return _kept(reduction)

    def reserve(self, encoded: EncodedFrames) -> int:
        """Ask the ledger for all that frames like this one will need, before the first; returns the bytes.

        Raises MemoryBudgetError when it does not fit.
        """
        self.reduce(encoded, 0.0)
        self.reset()
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors())

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""
        yield from self._history.buffers.values()
        yield from self._demand.held.buffers.values()

    def reset(self) -> None:
        """Forget every frame; the bytes stay reserved."""
        self._history.forget()
        self._demand.held.forget()
        self._grid = None
        if self.bucket is not None:
            self.bucket.reset()

    def close(self) -> None:
        """Give back what is held; closing twice is harmless."""
        self._history.release()
        self._demand.held.release()
        self._grid = None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, from which :meth:`restore` goes on alike."""
        tensors = {f"history.{name}": value.clone() for name, value in self._history.values.items()}
        tensors |= {f"asked.{name}": value.clone() for name, value in self._demand.held.values.items()}
        grid = None if self._grid is None else [self._grid.rows, self._grid.cols]
        return tensors, {"grid": grid, "bucket": None if self.bucket is None else self.bucket.state()[1]}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over the state of a reducer with the same method and options."""
        for held, prefix in ((self._history, "history."), (self._demand.held, "asked.")):
            held.forget()
            held.keep(
                {
                    name.removeprefix(prefix): value
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
            )
        self._grid = None if about["grid"] is None else VideoGrid(1, *about["grid"])
        if self.bucket is not None and about["bucket"] is not None:
            self.bucket.restore({}, about["bucket"])

    def _before(self, grid: VideoGrid) -> History:
        return self._history.values if grid == self._grid else {}

    def _step(self, tokens: VisualTokens, before: History, keep: int | None) -> tuple[Reduction, History]:
        """Keep as the method does, or ``keep`` tokens."""
        method = self.method
        if not isinstance(method, PreLLMMethod):
            return method.reduce(tokens), {}
        if keep is None and self.bucket is None and method.keeps_everything(tokens.grid):
            return Reduction.identity(tokens), {}
        return method.step(tokens, before, keep)

    def _granted(
        self, tokens: VisualTokens, before: History, bucket: TokenBucket, pts_seconds: float
    ) -> tuple[Reduction, History]:
        """Keep what ``bucket`` grants of what is asked for."""
        by_content = counts_by_content(self.method)
        if by_content:
            reduction, after = self._step(tokens, before, None)
            wanted = len(reduction)
        else:
            if tokens.grid != self._grid:
                self._demand.held.forget()
            changed = self._demand.changed(tokens, pts_seconds, float(bucket.tokens_per_second))
            wanted = int(changed.sum())
        granted = bucket.grant(pts_seconds, wanted)
        if not by_content or granted != wanted:
            try:
                reduction, after = self._step(tokens, before, max(1, min(granted, len(tokens))))
            except BaseException:
                bucket.give_back(granted)
                raise
            if granted == 0:
                reduction = Reduction.select(tokens, reduction.index[:0])
        bucket.give_back(max(0, granted - len(reduction)))
        if not by_content:
            kept = reduction.index[reduction.index >= 0]
            self._demand.answered(tokens, changed, kept, pts_seconds)
        return reduction, after


def bucket_of(budget: Budget, tokens_per_frame: int, frames_per_second: float) -> TokenBucket:
    """A bucket that spends in the long run what ``budget`` would, quiet frames less and busy ones more.

    Args:
        budget: a ratio, or tokens of every frame.
        tokens_per_frame: before the reduction; the most that a frame gets.
        frames_per_second: frames of tokens that come on average.
    """
    average = budget.tokens(tokens_per_frame)
    rate = average * frames_per_second
    floor = max(1, int(_FLOOR_SHARE * average))
    return TokenBucket(rate, floor, tokens_per_frame, max(tokens_per_frame, round(_SAVED_SECONDS * rate)))


def _check_finite(tokens: VisualTokens) -> None:
    if not all_finite(tokens.features):
        bad = int((~torch.isfinite(tokens.features)).any(-1).sum())
        raise InvalidValueError(
            f"features must be finite; {bad} of {len(tokens)} tokens of the frame hold NaN or inf"
        )


def _kept(reduction: Reduction) -> KeptTokens:
    """Each place once, in order."""
    index, carried = reduction.index, reduction.carried
    merged = reduction.entries is not None
    once = torch.ones_like(index, dtype=torch.bool)
    once[1:] = index[1:] != index[:-1]
    once &= index >= 0
    sizes = reduction.size if merged else None
    if bool(once.all()):
        return KeptTokens(index, reduction.features, carried, sizes, reduction.grid.tokens)
    return KeptTokens(
        index[once],
        reduction.features[once],
        None if carried is None else carried[once],
        None if sizes is None else sizes[once],
        reduction.grid.tokens,
    )
