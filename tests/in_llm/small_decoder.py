"""A language model of four layers whose token 1 stands for a visual token, and what is compared of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from streamprune.in_llm.base import Decision, InLLMMethod, PartCall, PromptView
from streamprune.models.prompt_rows import VisualRows
from streamprune.tokens import VideoGrid

VISUAL, GRID = 1, VideoGrid(2, 3, 4)
LAYERS = 4


@lru_cache(maxsize=8)
def small_decoder(implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Hidden size 64, grouped keys, weights sharp enough that every token counts."""
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation=implementation,
    )
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                sharp = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                weight.copy_(torch.randn(weight.shape, generator=generator) * sharp / weight.shape[1] ** 0.5)
        # so that no two visual tokens enter alike: the same embedding, told apart by what is before them
        model.model.embed_tokens.weight[VISUAL] *= 0.1
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def prompt(before: int = 5, after: int = 6, seed: int = 0, grid: VideoGrid = GRID) -> torch.Tensor:
    """(1, rows) ids: text, the visual tokens of ``grid``, text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(2, 97, (before + after,), generator=generator)
    video = torch.full((grid.tokens,), VISUAL)
    return torch.cat([text[:before], video, text[before:]])[None]


def padded(*prompts: torch.Tensor, left: bool = True) -> dict[str, torch.Tensor]:
    """A batch of prompts of unequal length with its mask."""
    longest = max(ids.shape[1] for ids in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(prompts):
        here = slice(longest - one.shape[1], None) if left else slice(0, one.shape[1])
        ids[row, here], mask[row, here] = one[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def locate(ids: torch.Tensor) -> list[VisualRows | None]:
    """The visual tokens of each prompt, on :data:`GRID` when they fill it."""
    found: list[VisualRows | None] = []
    for row in ids:
        rows = (row == VISUAL).nonzero()[:, 0]
        whole = len(rows) == GRID.tokens
        places = torch.arange(GRID.tokens) if whole else None
        found.append(VisualRows(rows, places, GRID if whole else None) if len(rows) else None)
    return found


@dataclass(frozen=True, kw_only=True)
class Watched(InLLMMethod):
    """Another method, with a list of the rows that each decision dropped, by their number in the prompt."""

    method: InLLMMethod
    cuts_of_rows: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    def keeps_everything(self, visual: int) -> bool:
        return self.method.keeps_everything(visual)

    def cuts(self, depth: int) -> tuple[int, ...]:
        return self.method.cuts(depth)

    def watched(self, depth: int) -> tuple[tuple[int, str], ...]:
        return self.method.watched(depth)

    def watch(self, call: PartCall) -> torch.Tensor:
        return self.method.watch(call)

    def checked_cuts(self, depth: int) -> tuple[int, ...]:
        return self.method.checked_cuts(depth)

    def decide(self, view: PromptView) -> Decision:
        rows = torch.arange(view.rows) if view.carried is None else view.carried[0]
        inner = None if view.carried is None else view.carried[1]
        decision = self.method.decide(replace(view, carried=inner))
        gone = torch.ones(len(rows), dtype=torch.bool)
        gone[decision.kept] = False
        self.cuts_of_rows.append((view.layer, rows[gone]))
        return replace(decision, carried=(rows[decision.kept], decision.carried))


@contextmanager
def masked(model: Any, batch_cuts: Sequence[Sequence[tuple[int, torch.Tensor]]]) -> Iterator[None]:
    """The reference: nothing is dropped, but upper layers do not see the keys that would have been.

    Args:
        batch_cuts: for each prompt of the batch, (first layer, keys counted with padding) of each cut.
    """
    layers = model.get_decoder().layers
    now: dict[str, torch.Tensor | None] = {}

    def before_decoder(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        now["padding"] = kwargs.get("attention_mask")

    def hook(number: int) -> Any:
        def before_layer(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            states, cache = args[0], kwargs.get("past_key_values")
            held = 0 if cache is None else cache.get_seq_length(number)
            rows = states.shape[1]
            query = torch.arange(held, held + rows)[:, None]
            seen = (torch.arange(held + rows) <= query)[None, None].repeat(len(states), 1, 1, 1)
            if now["padding"] is not None:
                seen &= now["padding"].bool()[:, None, None, :]
            for row, cuts in enumerate(batch_cuts):
                for first, gone in cuts:
                    if number >= first:
                        seen[row, :, :, gone] = False
            own = torch.arange(held + rows) == query
            seen |= own
            mask = torch.zeros_like(seen, dtype=states.dtype).masked_fill(~seen, -torch.inf)
            return args, {**kwargs, "attention_mask": mask}

        return before_layer

    handles = [model.get_decoder().register_forward_pre_hook(before_decoder, with_kwargs=True)]
    handles += [layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
