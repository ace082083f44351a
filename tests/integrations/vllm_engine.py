"""One vLLM engine at one pruning rate, asked with one method after the other; prints what it saw as JSON.

    python -m tests.integrations.vllm_engine FOLDER FAMILY RATE METHOD ...

Each method sees the same films under other names, so that nothing is answered from vLLM's caches. The engine
is started under the first method; "vllm" in place of a name is vLLM's own pruner, in our subclass.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamprune.integrations.vllm_plugin import METHOD, SERVED_MODELS
from streamprune.integrations.vllm_pruner import VideoPruner
from streamprune.reduce import reduce_tokens
from tests.integrations.vllm_checkpoint import save_tiny_model
from tests.models.small_qwen import SPECIALS

STOCK = "vllm"
# long enough that whole blocks of vLLM's prefix cache hold nothing but text
ASKED = "<|im_start|> user " + "what color ? " * 12 + "{} " + "what moves ? " * 60
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
ROWS, COLS, SIDE = 6, 6, 28  # tokens of a frame, pixels along one
FPS = 3.0  # so that a slice lasts no whole second


class Witness:
    """What our mask was asked and said, and what the runner made of it, of the prompt under way."""

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Tensor, Any, float, int | None]] = []
        self.said: list[torch.Tensor] = []
        self.rows: list[torch.Tensor] = []
        self.positions: torch.Tensor | None = None

    def forget(self) -> None:
        """Begin with the next prompt."""
        self.asked, self.said, self.rows, self.positions = [], [], [], None

    def watch(self, model_class: Any) -> None:
        """Stand before the calls of VideoPruner and of the model; nothing is changed on the way."""
        mask, recompute = VideoPruner.mask, model_class.recompute_mrope_positions

        def masked(
            pruner: VideoPruner, features: Any, grid: Any, rate: float, *, scored_channels: int | None = None
        ) -> torch.Tensor:
            self.asked.append((features.clone(), grid, rate, scored_channels))
            self.said.append(mask(pruner, features, grid, rate, scored_channels=scored_channels))
            return self.said[-1]

        def recomputed(model: Any, *args: Any, **kwargs: Any) -> Any:
            rows, positions, delta = recompute(model, *args, **kwargs)
            if len(rows):
                self.rows, self.positions = [row.clone() for row in rows], positions.clone()
            return rows, positions, delta

        VideoPruner.mask = masked  # type: ignore[method-assign, assignment]
        model_class.recompute_mrope_positions = recomputed


def film(frames: int) -> tuple[Any, dict[str, Any]]:
    """Noise that stands still in its left half."""
    drawn = np.random.default_rng(frames).integers(
        0, 255, (frames, ROWS * SIDE, COLS * SIDE, 3), dtype=np.uint8
    )
    drawn[:, :, : COLS * SIDE // 2] = drawn[:1, :, : COLS * SIDE // 2]
    told = {"fps": FPS, "duration": frames / FPS, "total_num_frames": frames}
    return drawn, {**told, "frames_indices": list(range(frames)), "do_sample_frames": False}


def ask(llm: Any, method: str, lengths: list[int]) -> dict[str, Any]:
    """Ask about films of ``lengths`` frames; how many tokens the prompt had, and what may come next."""
    from vllm import SamplingParams

    prompt = {
        "prompt": ASKED.format(VIDEO * len(lengths)),
        "multi_modal_data": {"video": [film(frames) for frames in lengths]},
        "multi_modal_uuids": {"video": [f"{method}-{frames}-of-{lengths}" for frames in lengths]},
    }
    wanted = SamplingParams(max_tokens=3, temperature=0, logprobs=8)
    (answer,) = llm.generate([prompt], wanted, use_tqdm=False)
    ids = list(answer.prompt_token_ids)
    likely = {str(token): told.logprob for token, told in answer.outputs[0].logprobs[0].items()}
    return {
        "method": method,
        "frames": lengths,
        "prompt_tokens": len(ids),
        "video_tokens": ids.count(SPECIALS.index("<|video_pad|>")),
        "ids": ids,
        "answer": list(answer.outputs[0].token_ids),
        "likely": likely,
    }


def compare(seen: Witness, row: dict[str, Any], method: str) -> None:
    """Add to ``row`` what the library alone decides about the same features."""
    videos: list[dict[str, Any]] = []
    for (features, grid, rate, scored), mask in zip(seen.asked, seen.said, strict=True):
        own = features.shape[1] if scored is None else scored
        shaped = features[:, :own].reshape(grid.frames, grid.rows, grid.cols, own)
        meant = reduce_tokens(shaped, method, keep_ratio=1 - rate)
        videos.append(
            {
                "channels": features.shape[1],
                "scored_channels": own,
                "announced": VideoPruner(method=method).count(grid.tokens_per_frame, grid.frames, rate),
                "index": mask.nonzero().flatten().tolist(),
                "meant_index": meant.index.tolist(),
                "meant_rows": meant.features,
            }
        )
    row["videos"] = videos
    is_video = torch.tensor(row.pop("ids")) == SPECIALS.index("<|video_pad|>")
    if len(videos) == 1 and seen.positions is not None:
        row["positions"] = seen.positions[:, is_video].tolist()
        # among the rows of Qwen3-VL stand those of time stamps, so each row is looked for
        rows, meant_rows = seen.rows[0], videos[0]["meant_rows"]
        apart = (rows[:, None, : meant_rows.shape[1]] - meant_rows[None]).abs().amax(-1)
        row["rows_off"] = float(apart.amin(0).max())
    for video in videos:
        del video["meant_rows"]


def main(folder: str, family: str, rate: float, methods: list[str]) -> dict[str, Any]:
    from vllm import LLM
    from vllm.model_executor.models.registry import ModelRegistry

    llm = LLM(
        str(save_tiny_model(Path(folder), family)),
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=2,
        enforce_eager=True,
        skip_mm_profiling=True,
        enable_prefix_caching=True,
        mm_processor_cache_gb=0,
        limit_mm_per_prompt={"video": 2, "image": 0},
        video_pruning_rate=rate or None,
    )
    (name,) = llm.llm_engine.model_config.architectures
    served = ModelRegistry.models[name].load_model_cls()
    seen, rows = Witness(), []
    seen.watch(served)
    for method in methods:
        os.environ[METHOD] = "" if method == STOCK else method
        for lengths in [[32], [6, 32]]:
            seen.forget()
            row = ask(llm, method, lengths)
            row["again"] = ask(llm, method, lengths)["likely"]
            if method == STOCK:
                del row["ids"]
            else:
                compare(seen, row, method)
            rows.append(row)
    return {"served_by": served.__module__, "is_ours": served.__module__ == SERVED_MODELS[name], "rows": rows}


if __name__ == "__main__":
    _, folder, family, rate, *methods = sys.argv
    print("\n" + json.dumps(main(folder, family, float(rate), methods)), flush=True)
