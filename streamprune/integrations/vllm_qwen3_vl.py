"""vLLM's Qwen3-VL with our pruner; imported by vLLM when it loads such a model."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen3_vl as stock

from streamprune.integrations.vllm_hooks import PrunedVideos, answer_pruning, only_frame_starts

answer_pruning(stock)


class Qwen3VLForConditionalGeneration(PrunedVideos, stock.Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """The stock model; the method that STREAMPRUNE_VLLM_METHOD names says which video tokens stay.

    Rows that its tower adds to deeper layers share the fate of their token, and no method scores them.
    """

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Any, num_computed_tokens: int
    ) -> Any:
        """Stock, but for the mark of a whole video, which vLLM 0.32 takes for that of its first frame."""
        frames = only_frame_starts(
            input_ids,
            start=self.config.vision_start_token_id,
            end=self.config.vision_end_token_id,
            shown=(self.config.image_token_id, self.config.video_token_id),
        )
        return super().recompute_mrope_positions(
            frames, multimodal_embeddings, mrope_positions, num_computed_tokens
        )
