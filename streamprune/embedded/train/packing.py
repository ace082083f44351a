"""Packing: a clip and all its questions as one sequence, every question blind to the others.

Sequence: ``<|im_start|> user``, the visual tokens, the newline token, then for each question
``QUESTION <|im_end|> <|im_start|> assistant ANSWER <|im_end|>``. Positions of every question start right
after the
clip, so each question reads exactly what it would read alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamprune.embedded.train.tokenizer import END, PAD, START, build_tokenizer
from streamprune.embedded.world.questions import Question

PREFIX_WORDS = 2
_CELLS = 36


@cache
def _tokenizer() -> object:
    return build_tokenizer()


@cache
def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text without special tokens around it."""
    ids: list[int] = _tokenizer()(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    return tuple(ids)


@dataclass(frozen=True)
class Packed:
    """Text part of a packed batch; the visual part has ``visual`` columns after the two prefix words.

    ids (clips, text), segment and position of each text column, and the columns whose prediction is scored.
    """

    visual: int
    ids: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor  # (clips, text): id to predict at this column, or -100


def pack(questions: Sequence[Sequence[Question]], visual_positions: NDArray[np.int64]) -> Packed:
    """Pack the questions of each clip behind its visual tokens.

    ``visual_positions`` (clips, visual + 1) are the positions of the visual tokens and of the newline token.
    """
    _, user, assistant = START, encode("user")[0], encode("assistant")[0]
    rows = []
    for asked, places in zip(questions, visual_positions, strict=True):
        ids, segments, positions, targets = [START, user], [0, 0], [0, 1], [-100, -100]
        for number, question in enumerate(asked, start=1):
            prompt = [*encode(question.text), END, START, assistant]
            answer = [*encode(question.answer), END]
            words = prompt + answer[:-1]
            ids += words
            segments += [number] * len(words)
            positions += range(int(places[-1]) + 1, int(places[-1]) + 1 + len(words))
            targets += [-100] * (len(prompt) - 1) + answer
        rows.append((ids, segments, positions, targets))
    length = max(len(row[0]) for row in rows)
    fills = (PAD, -1, 0, -100)
    columns = [
        torch.tensor([row[k] + [fill] * (length - len(row[k])) for row in rows])
        for k, fill in enumerate(fills)
    ]
    return Packed(visual_positions.shape[1], *columns)


def attention_mask(packed: Packed, dtype: torch.dtype) -> Tensor:
    """Additive mask (clips, 1, all, all): causal, and a question sees the clip and itself only."""
    clips, text = packed.segments.shape
    visual = torch.zeros(clips, packed.visual, dtype=packed.segments.dtype)
    segments = torch.cat([packed.segments[:, :PREFIX_WORDS], visual, packed.segments[:, PREFIX_WORDS:]], 1)
    size = text + packed.visual
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    same = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
    blocked = ~(causal & same)
    return torch.zeros(blocked.shape, dtype=dtype).masked_fill_(blocked, torch.finfo(dtype).min)[:, None]


def clip_positions(slots: Sequence[int], kept: NDArray[np.int64], renumber: bool) -> NDArray[np.int64]:
    """Positions of kept tokens (flat indices) and of the newline, given the frames' time ``slots``."""
    if renumber:
        return np.arange(PREFIX_WORDS, PREFIX_WORDS + len(kept) + 1)
    start = np.asarray(slots, np.int64) * _CELLS + PREFIX_WORDS
    places = start[kept // _CELLS] + kept % _CELLS
    newline = start[-1] + _CELLS
    return np.append(places, newline)
