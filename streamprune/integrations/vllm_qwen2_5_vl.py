"""vLLM's Qwen2.5-VL with our pruner; imported by vLLM when it loads such a model."""

from __future__ import annotations

from vllm.model_executor.models import qwen2_5_vl as stock

from streamprune.integrations.vllm_hooks import PrunedVideos, answer_pruning

answer_pruning(stock)


class Qwen2_5_VLForConditionalGeneration(PrunedVideos, stock.Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """The stock model; the method that STREAMPRUNE_VLLM_METHOD names says which video tokens stay."""
