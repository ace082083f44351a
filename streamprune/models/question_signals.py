"""Signals that belong to a question: its words as the language model takes them in, and where it looks."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from streamprune.errors import SignalError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.devices import out_of_memory_explained
from streamprune.models.generation import check_context
from streamprune.ops.projections import heads_of
from streamprune.ops.rotary import rotate
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# longest prompt that is read only to see where the language model looks; of more tokens than fit, only every
# second row and column of the grid is shown, or every third, ...
LOOK_TOKENS = 8192


@dataclass(frozen=True)
class AskedTokens:
    """Visual tokens with the signals of one question.

    Attributes:
        tokens: the same tokens, whose ``signals`` also hold those of the question.
        read_tokens: length of the prompt that the language model had to read for them, 0 for none.
    """

    tokens: VisualTokens
    read_tokens: int = 0


def with_question(
    family: VideoFamily, question: str, tokens: VisualTokens, names: Sequence[str]
) -> AskedTokens:
    """Compute the signals ``names`` of ``question`` about ``tokens``.

    * ``text_embeds`` (pieces, channels): the language model's input embeddings of the question's tokens.
    * ``query_frame_attention`` (frames,): share of each frame in the attention that the last token of the
      prompt pays to visual tokens, averaged over heads and over the last third of the language model's
      layers, recurrent ones not counted. The model reads one prompt for it; see :data:`LOOK_TOKENS`.
    """
    found: dict[str, torch.Tensor] = {}
    read_tokens = 0
    for name in names:
        if name == "text_embeds":
            found[name] = _text_embeds(family, question)
        elif name == "query_frame_attention":
            prompt, shown = _prompt_to_read(family, question, tokens)
            found[name] = _last_row(family, prompt, shown.grid.frames)
            read_tokens = len(prompt)
        else:
            raise SignalError(f"the signal {name!r} does not belong to a question")
    return AskedTokens(replace(tokens, signals=ChainMap(found, tokens.signals)), read_tokens)  # type: ignore[arg-type]


@torch.no_grad()
def _text_embeds(family: VideoFamily, question: str) -> torch.Tensor:
    ids = family.tokenizer(question, add_special_tokens=False)["input_ids"]
    embedded: torch.Tensor = family.model.get_input_embeddings()(torch.tensor(ids, device=family.device))
    return embedded


def _prompt_to_read(family: VideoFamily, question: str, tokens: VisualTokens) -> tuple[Prompt, Reduction]:
    """The prompt about as many evenly spaced tokens of every frame as may be read."""
    grid, fixed = tokens.grid, family.fixed_tokens(question, tokens.grid.frames)
    room = min(LOOK_TOKENS, family.context_tokens)
    step = next(
        (
            step
            for step in range(1, max(grid.rows, grid.cols))
            if fixed + grid.frames * -(-grid.rows // step) * -(-grid.cols // step) <= room
        ),
        max(grid.rows, grid.cols),
    )
    shown = Reduction.select(tokens, _every(grid, step, tokens.features.device))
    keeps_places = family.reach(fixed, grid) <= family.context_tokens
    prompt = family.prompt(
        question,
        shown,
        pts_seconds=tokens.pts_seconds,
        positions="keep" if keeps_places else "renumber",
    )
    check_context(family, len(prompt), 0)
    return prompt, shown


def _every(grid: VideoGrid, step: int, device: torch.device) -> torch.Tensor:
    """Flat indices of every ``step``-th row and column of every frame."""
    flat = torch.arange(grid.tokens, device=device).reshape(grid.frames, grid.rows, grid.cols)
    return flat[:, ::step, ::step].flatten()


def _last_row(family: VideoFamily, prompt: Prompt, frames: int) -> torch.Tensor:
    """(frames,) attention of the prompt's last token to its visual tokens, sums to 1."""
    return read_attention(family, prompt).reshape(frames, -1).sum(1)


@torch.no_grad()
def read_attention(family: VideoFamily, prompt: Prompt) -> torch.Tensor:
    """(visual rows,) where the prompt's last token looks among them; the model reads it once. Sums to 1."""
    with family.lock, out_of_memory_explained(f"reading a prompt of {len(prompt)} tokens"):
        with attention_noted(family, prompt) as rows:
            family.model(**prompt.model_inputs(), use_cache=False, logits_to_keep=1)
        return mean_attention(family, rows)


def mean_attention(family: VideoFamily, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """(visual rows,) of what :func:`attention_noted` noted, the mean over layers."""
    return torch.stack([row.to(family.device) for row in rows]).mean(0)


@contextmanager
def attention_noted(family: VideoFamily, prompt: Prompt) -> Iterator[list[torch.Tensor]]:
    """While the block lasts, note where the last token of ``prompt`` looks when the whole of it goes up.

    Of the last third of the layers, recurrent ones not counted, one (visual rows,) row each, mean over heads:
    the share of each visual row in what visual rows get. Calls of another length, those of an answer's later
    tokens among them, are let alone. The caller holds ``family.lock``.
    """
    layers = [layer for layer in family.model.get_decoder().layers if hasattr(layer, "self_attn")]
    deep = layers[2 * len(layers) // 3 :]
    rows: list[torch.Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if states.shape[1] == len(prompt):
            with torch.no_grad():
                rows.append(_look(module, states[0], kwargs["position_embeddings"], prompt.kept_columns))

    hooks = [layer.self_attn.register_forward_pre_hook(look, with_kwargs=True) for layer in deep]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _look(
    attention: Any, states: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], columns: torch.Tensor
) -> torch.Tensor:
    """(columns,) softmax over ``columns`` of the last row's scores, mean over heads.

    Args:
        states: (prompt, width) what goes into the attention.
        tables: cosines and sines of the positions, (1, prompt, head width).
    """
    columns = columns.to(states.device)
    cos, sin = (table[0, :, None].float() for table in tables)
    query = heads_of(attention, "q", states[-1:])
    keys = heads_of(attention, "k", states[columns])
    query, keys = rotate(query, cos[-1:], sin[-1:]), rotate(keys, cos[columns], sin[columns])
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
    scores = torch.einsum("hd,chd->hc", query[0], keys) * float(attention.scaling)
    return torch.softmax(scores, -1).mean(0)
