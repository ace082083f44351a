"""vLLM's Qwen3-VL with our pruner; imported by vLLM when it loads such a model."""

from __future__ import annotations

from vllm.model_executor.models import qwen3_vl as stock

from streamprune.integrations.vllm_hooks import PrunedVideos, answer_pruning

answer_pruning(stock)


class Qwen3VLForConditionalGeneration(PrunedVideos, stock.Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """The stock model; the method that STREAMPRUNE_VLLM_METHOD names says which video tokens stay.

    Rows that its tower adds to deeper layers share the fate of their token, and no method scores them.
    """

    position_channels = 5
