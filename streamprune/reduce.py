"""``reduce_tokens`` and ``reduce_batch``: any pre-LLM method on bare tensors, no model needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from streamprune.budget import Budget
from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.registry import build_method
from streamprune.tokens import Reduction, VisualTokens, all_finite

if TYPE_CHECKING:
    import torch


class Reducer(Protocol):
    """Anything that turns tokens into a decision; every built-in pre-LLM method is one."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Decide what stays of ``tokens``."""


def reduce_tokens(
    features: torch.Tensor,
    method: str | Reducer,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    signals: Mapping[str, torch.Tensor] | None = None,
    pts_seconds: tuple[float, ...] | None = None,
    **options: Any,
) -> Reduction:
    """Reduce the visual tokens of one video.

    Args:
        features: (frames, rows, cols, channels) floating-point tensor, any device.
        method: name of a pre-LLM method (``streamprune methods`` lists them), or an object with
            ``reduce(tokens) -> Reduction``, which brings its own budget and options.
        keep_ratio: share of the tokens KEPT, in (0, 1].
        keep_tokens: number of tokens kept; give one of the two, or neither to keep all.
        signals: tensors the method needs, by name, e.g. ``{"saliency": (frames, rows, cols)}``.
        pts_seconds: time of each frame, for methods that ask.
        **options: the method's own options; a wrong name is answered with the known ones.

    Returns:
        A Reduction: ``index``, ``source``, ``size``, ``features``, ``weights``, ``apply``.

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError, SignalError: all also ValueError or TypeError.
    """
    chosen = choose_reducer(method, keep_ratio=keep_ratio, keep_tokens=keep_tokens, options=options)
    return run_reducer(chosen, VisualTokens.from_grid(features, signals, pts_seconds))


def reduce_batch(
    features: torch.Tensor | Sequence[torch.Tensor],
    method: str | Reducer,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    signals: Sequence[Mapping[str, torch.Tensor]]
    | Mapping[str, torch.Tensor | Sequence[torch.Tensor]]
    | None = None,
    pts_seconds: Sequence[tuple[float, ...] | None] | None = None,
    **options: Any,
) -> list[Reduction]:
    """Reduce the visual tokens of several videos, each as :func:`reduce_tokens` would alone.

    The videos do not see each other, and the budget is that of each video.

    Args:
        features: (videos, frames, rows, cols, channels), or one (frames, rows, cols, channels) tensor a
            video, which may differ in length and shape.
        method, keep_ratio, keep_tokens, options: as for :func:`reduce_tokens`; the same for all videos.
        signals: one mapping a video, or one mapping whose values hold one tensor a video: a tensor with the
            videos as its first axis, or a list.
        pts_seconds: the times of the frames of each video.

    Returns:
        One Reduction a video, in order.

    Raises:
        The errors of :func:`reduce_tokens`, which name the video by its place in the batch.
    """
    chosen = choose_reducer(method, keep_ratio=keep_ratio, keep_tokens=keep_tokens, options=options)
    videos = _read_videos(features)
    each_signals = _read_signals(signals, len(videos))
    times = [None] * len(videos) if pts_seconds is None else pts_seconds
    _check_batched("pts_seconds", times, len(videos))
    reductions = []
    for number, (video, given, seconds) in enumerate(zip(videos, each_signals, times, strict=True)):
        try:
            reductions.append(run_reducer(chosen, VisualTokens.from_grid(video, given, seconds)))
        except (InvalidTypeError, InvalidValueError, SignalError) as error:
            raise type(error)(f"video {number} of the batch: {error}") from error
    return reductions


def choose_reducer(
    method: str | Reducer,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reducer:
    """Build the named method with its budget, or check that ``method`` is one already."""
    options = options or {}
    if "budget" in options:
        raise InvalidValueError("budget is not an option; give keep_ratio or keep_tokens")
    if isinstance(method, str):
        built: Reducer = build_method(
            "pre_llm", method, {**options, "budget": Budget(keep_ratio, keep_tokens)}
        )
        return built
    if isinstance(method, type) or not callable(getattr(method, "reduce", None)):
        raise InvalidTypeError(
            "method must be a name or an object with reduce(tokens) -> Reduction, "
            f"got {method!r}" + ("; make an instance of it first" if isinstance(method, type) else "")
        )
    if keep_ratio is not None or keep_tokens is not None or options:
        raise InvalidValueError(
            f"{type(method).__name__} is an object that brings its own budget and options; "
            "set them when making it, not in this call"
        )
    return method


def run_reducer(method: Reducer, tokens: VisualTokens) -> Reduction:
    """Run ``method``: the one door through which every stage and test calls a reducer.

    A budget that keeps everything is answered here, so that no method can lose a bit at keep_ratio 1.
    """
    import torch

    if not all_finite(tokens.features):
        bad = int((~torch.isfinite(tokens.features)).any(-1).sum())
        raise InvalidValueError(f"features must be finite; {bad} of {len(tokens)} tokens hold NaN or inf")
    if _keeps_everything(method, tokens):
        return Reduction.identity(tokens)
    reduction = method.reduce(tokens)
    if not isinstance(reduction, Reduction):
        raise InvalidTypeError(
            f"{type(method).__name__}.reduce must return a Reduction (Reduction.select or .merge makes one), "
            f"got {type(reduction).__name__}"
        )
    if reduction.carried_in is not tokens.carried:  # a method may build its Reduction by hand
        return replace(reduction, carried_in=tokens.carried)
    return reduction


def _keeps_everything(method: Reducer, tokens: VisualTokens) -> bool:
    if isinstance(method, PreLLMMethod):
        return method.keeps_everything(tokens.grid)
    budget = getattr(method, "budget", None)
    return isinstance(budget, Budget) and budget.tokens(len(tokens)) == len(tokens)


def _read_videos(features: object) -> Sequence[torch.Tensor]:
    """One (frames, rows, cols, channels) tensor a video; their own shapes are checked later."""
    import torch

    if isinstance(features, torch.Tensor):
        if features.ndim != 5:
            raise InvalidValueError(
                "features must be (videos, frames, rows, cols, channels) or a list of (frames, rows, cols, "
                f"channels), got shape {tuple(features.shape)}; one video is reduce_tokens' work"
            )
        videos: Sequence[torch.Tensor] = features.unbind()
    elif isinstance(features, (list, tuple)):
        videos = features
    else:
        raise InvalidTypeError(f"features must be a tensor or a list of them, got {type(features).__name__}")
    if not videos:
        raise InvalidValueError("features must hold at least one video, got none")
    return videos


def _read_signals(signals: object, videos: int) -> Sequence[Mapping[str, torch.Tensor] | None]:
    """The signals of each video."""
    if signals is None:
        return [None] * videos
    if isinstance(signals, Mapping):
        return [_OfOneVideo(signals, number, videos) for number in range(videos)]
    _check_batched("signals", signals, videos)
    return signals  # type: ignore[return-value]


def _check_batched(name: str, values: object, videos: int) -> None:
    if not isinstance(values, (list, tuple)):
        raise InvalidTypeError(f"{name} must be a list with one entry a video, got {type(values).__name__}")
    if len(values) != videos:
        raise InvalidValueError(f"{name} must have one entry a video ({videos}), got {len(values)}")


class _OfOneVideo(Mapping[str, Any]):
    """One video's part of signals that hold all videos; nothing is read before it is asked for."""

    def __init__(self, batched: Mapping[str, Any], number: int, videos: int) -> None:
        self._batched = batched
        self._number = number
        self._videos = videos

    def __getitem__(self, name: str) -> Any:
        values = self._batched[name]
        if not hasattr(values, "__len__") or len(values) != self._videos:
            got = f"{len(values)} of them" if hasattr(values, "__len__") else type(values).__name__
            raise SignalError(f"signal {name!r} must hold one tensor a video ({self._videos}), got {got}")
        return values[self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._batched)

    def __len__(self) -> int:
        return len(self._batched)
