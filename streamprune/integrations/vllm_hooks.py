"""What our subclasses of vLLM's models share; takes vLLM's modules and classes as arguments, imports none.

vLLM prunes in three places, and each is left where it is: the prompt processor counts, the model masks what
its tower gave and keeps the original positions of what stays, the runner takes those positions over. Only the
two functions that count and mask are answered here, and by vLLM's own where no method was chosen.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.integrations.vllm_plugin import METHOD, chosen_pruner
from streamprune.tokens import VideoGrid

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("streamprune.integrations.vllm")

_COUNT, _MASK = "compute_retained_tokens_count", "compute_retention_mask"
_ENABLED = "is_multimodal_pruning_enabled"
_scored_channels: ContextVar[int | None] = ContextVar("scored_channels", default=None)


def answer_pruning(module: ModuleType) -> None:
    """Answer the two questions that ``module``, where a model of vLLM's lives, asks its pruner; once.

    Raises UnsupportedModelError when the module does not ask them.
    """
    if getattr(module, "_streamprune_answers", False):
        return
    missing = [name for name in (_COUNT, _MASK) if not callable(getattr(module, name, None))]
    if missing:
        raise UnsupportedModelError(
            f"{module.__name__} has no {' and no '.join(missing)}; this plug-in knows how vLLM 0.32 prunes "
            f"videos. Use that version, or unset {METHOD}"
        )
    stock_count, stock_mask = getattr(module, _COUNT), getattr(module, _MASK)

    def compute_retained_tokens_count(tokens_per_frame: int, num_frames: int, q: float) -> int:
        pruner = chosen_pruner()
        if pruner is None:
            return int(stock_count(tokens_per_frame=tokens_per_frame, num_frames=num_frames, q=q))
        return pruner.count(tokens_per_frame, num_frames, q)

    def compute_retention_mask(
        video_embeds: torch.Tensor, video_size_thw: Any, spatial_merge_size: int, q: float
    ) -> torch.Tensor:
        pruner = chosen_pruner()
        if pruner is None:
            stock: torch.Tensor = stock_mask(
                video_embeds, video_size_thw, spatial_merge_size=spatial_merge_size, q=q
            )
            return stock
        frames, rows, cols = map(int, video_size_thw)  # rows and cols of patches
        grid = VideoGrid(frames, rows // spatial_merge_size, cols // spatial_merge_size)
        return pruner.mask(video_embeds, grid, q, scored_channels=_scored_channels.get())

    setattr(module, _COUNT, compute_retained_tokens_count)
    setattr(module, _MASK, compute_retention_mask)
    module._streamprune_answers = True  # type: ignore[attr-defined]


class PrunedVideos:
    """Stands in front of a model class of vLLM's among the bases of a subclass."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        check_pruning(vllm_config.model_config.get_multimodal_config())
        mend_cpu_runner()
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        # vLLM's prune and append positions. Features that came with the request are the request's:
        # merged rows are written into a copy of them
        if video_input["type"] == "video_embeds":
            video_embeds_split = tuple(rows.clone() for rows in video_embeds_split)
        with _scoring(getattr(self, "visual_dim", None)):
            return super()._postprocess_video_embeds_evs(video_embeds_split, video_input)  # type: ignore[misc]


def check_pruning(config: Any) -> None:
    """Say at start what of vLLM's settings does not fit the chosen method, rather than at the first video.

    Args:
        config: vLLM's settings for pictures and videos: ``video_pruning_rate``, ``video_pruning_method``.

    Raises:
        InvalidValueError: another pruner was asked for beside ours.
    """
    pruner = chosen_pruner()
    if pruner is None:
        return
    if not config.video_pruning_rate:
        logger.warning("%s=%s, but no --video-pruning-rate: every token stays", METHOD, pruner.method)
    elif config.video_pruning_method != "evs":  # what it says when nobody chose
        raise InvalidValueError(
            f"--video-pruning-method {config.video_pruning_method} asks for vLLM's own pruner and "
            f"{METHOD}={pruner.method} for another; leave one of them out"
        )


def mend_cpu_runner() -> None:
    """Tell vLLM's CPU runner that its model prunes, which that of 0.32 never asks; a no-op where it knows.

    Without it the rows that a model returns still carry their positions, and do not fit.
    """
    module = sys.modules.get("vllm.v1.worker.cpu_model_runner")
    if module is None or isinstance(getattr(module.CPUModelRunner, _ENABLED, None), property):
        return

    def is_enabled(runner: Any) -> bool:
        own, model = vars(runner).get(_ENABLED, False), getattr(runner, "model", None)
        return bool(own or getattr(model, _ENABLED, False))

    def remember(runner: Any, enabled: bool) -> None:
        vars(runner)[_ENABLED] = enabled

    setattr(module.CPUModelRunner, _ENABLED, property(is_enabled, remember))


def only_frame_starts(
    ids: torch.Tensor | list[int], *, start: int, end: int, shown: tuple[int, ...]
) -> torch.Tensor | list[int]:
    """The prompt ``ids`` with every ``start`` replaced by ``end`` that no frame follows.

    Since transformers 5.10 the prompt of Qwen3-VL keeps the marks around its whole video beside those around
    each frame. vLLM 0.32 finds a video by its first mark and would give every token the position of another.
    Behind a frame's mark is the frame, or ``end`` where all of its tokens went; behind a video's is text.
    """
    import torch

    row = torch.as_tensor(ids)
    after = torch.cat([row[1:], row.new_full((1,), end)])
    outer = row.eq(start) & ~torch.isin(after, row.new_tensor((end, *shown)))
    if not bool(outer.any()):
        return ids
    cleaned = row.masked_fill(outer, end)
    return cleaned if isinstance(ids, torch.Tensor) else cleaned.tolist()


@contextmanager
def _scoring(channels: int | None) -> Iterator[None]:
    token = _scored_channels.set(channels)
    try:
        yield
    finally:
        _scored_channels.reset(token)
