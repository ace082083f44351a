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
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.integrations.vllm_plugin import METHOD, chosen_pruner
from streamprune.integrations.vllm_positions import (
    PromptMarks,
    VideoSpan,
    place_rows,
    shown_spans,
    whole_prompt,
)
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
    """Stands in front of a model class of vLLM's among the bases of a subclass.

    Class attributes:
        position_channels: how many channels the stock class appends to the rows that leave its tower, of
            which the first three are positions.
    """

    position_channels: ClassVar[int]

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

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Any:
        """Stock positions of the prompt as it was before pruning, of those tokens that are left of it."""
        if not getattr(self, _ENABLED):
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        config = self.config  # type: ignore[attr-defined]
        merged = config.vision_config.spatial_merge_size**2
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        spans = []
        for feature in features:
            if feature.modality == "video":
                frames, rows, cols = map(int, feature.data["video_grid_thw"].data.tolist())
                place = feature.mm_position
                spans.append(VideoSpan(place.offset, place.length, frames, rows * cols // merged))
        whole = whole_prompt(
            input_tokens, spans, video=config.video_token_id, start=config.vision_start_token_id
        )
        moved = [_moved(feature, whole.shifts[feature.mm_position.offset]) for feature in features]
        positions, _ = super().get_mrope_input_positions(whole.ids, moved)  # type: ignore[misc]
        left = positions[:, whole.columns]
        return left, int(left.max()) + 1 - len(input_tokens)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Any, num_computed_tokens: int
    ) -> Any:
        """Take the positions off the rows that vLLM's model appended them to, and put them into the prompt's.

        vLLM 0.32 finds the place of a second picture or video by counting features as if no text stood
        between them, that of Qwen3-VL's by the mark around the whole video, and begins the text behind one
        after its columns. Here the text is where it belongs already: :meth:`get_mrope_input_positions`.
        """
        config, own = self.config, self.position_channels  # type: ignore[attr-defined]
        ids = input_ids.tolist() if hasattr(input_ids, "tolist") else list(input_ids)
        marks = PromptMarks(
            start=config.vision_start_token_id,
            end=config.vision_end_token_id,
            image=config.image_token_id,
            video=config.video_token_id,
        )
        rows = [shown[:, -own:][:, :3].long() for shown in multimodal_embeddings]
        placed = place_rows(mrope_positions, rows, shown_spans(ids, marks), num_computed_tokens)
        features = [shown[:, :-own] for shown in multimodal_embeddings]
        return features, placed, int(placed[:, : len(ids)].max()) + 1 - len(ids)


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


def _moved(feature: Any, shift: int) -> Any:
    """What is shown at one place of a prompt, ``shift`` tokens further on."""
    place = feature.mm_position
    return replace(feature, mm_position=replace(place, offset=place.offset + shift))


@contextmanager
def _scoring(channels: int | None) -> Iterator[None]:
    token = _scored_channels.set(channels)
    try:
        yield
    finally:
        _scored_channels.reset(token)
