"""vLLM's Qwen2.5-VL with our pruner; imported by vLLM when it loads such a model."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen2_5_vl as stock

from streamprune.integrations.vllm_hooks import PrunedVideos, answer_pruning

answer_pruning(stock)


class Qwen2_5_VLForConditionalGeneration(PrunedVideos, stock.Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """The stock model; the method that STREAMPRUNE_VLLM_METHOD names says which video tokens stay.

    Where it prunes, vLLM 0.32 rounds the seconds of a frame down; here they are as they are without pruning.
    """

    position_channels = 4

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        seconds = video_input.get("second_per_grid_ts")
        if seconds is None:  # vLLM says what is missing
            return super()._postprocess_video_embeds_evs(video_embeds_split, video_input)
        each_second = {
            "type": video_input["type"],
            "video_grid_thw": video_input["video_grid_thw"],
            "second_per_grid_ts": seconds.new_ones(seconds.shape),
        }
        pruned = super()._postprocess_video_embeds_evs(video_embeds_split, each_second)
        per_second = self.config.vision_config.tokens_per_second
        for rows, frame_seconds in zip(pruned, seconds.tolist(), strict=True):
            frame = rows[:, -self.position_channels].double() / per_second
            rows[:, -self.position_channels] = (frame * (frame_seconds * per_second)).floor()
        return pruned
