"""Packing: a clip and all its questions as one sequence, every question blind to the others.

Sequence: the words before the video (``<|im_start|> user ...``), the visual columns, the words right behind
them, then for each question ``QUESTION <|im_end|> <|im_start|> assistant ANSWER <|im_end|>``. Positions of
every question start right after the clip, so each question reads exactly what it would read alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from streamprune.embedded.train.tokenizer import END, PAD, START, build_tokenizer
from streamprune.embedded.world.questions import Question


@cache
def _tokenizer() -> object:
    return build_tokenizer()


@cache
def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text without special tokens around it."""
    ids: list[int] = _tokenizer()(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    return tuple(ids)


@dataclass(frozen=True)
class Frame:
    """Ids of the words that stand before and behind the visual columns of every prompt."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """Text part of a packed batch; ``visual`` columns stand behind its first ``opening`` words.

    ids (clips, text), segment and position of each text column, and the columns whose prediction is scored.
    """

    visual: int
    opening: int
    ids: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor  # (clips, text): id to predict at this column, or -100


def pack(questions: Sequence[Sequence[Question]], visual: int, starts: Sequence[int], frame: Frame) -> Packed:
    """Pack the questions of each clip behind its visual columns.

    Args:
        visual: number of visual columns, the same for all clips.
        starts: of each clip, the position of the first word behind the visual columns.
        frame: the words around them.
    """
    assistant, opening, closing = encode("assistant")[0], frame.opening, frame.closing
    rows = []
    for asked, start in zip(questions, starts, strict=True):
        ids = [*opening, *closing]
        positions = [*range(len(opening)), *range(start, start + len(closing))]
        segments, targets = [0] * len(ids), [-100] * len(ids)
        first = start + len(closing)
        for number, question in enumerate(asked, start=1):
            prompt = [*encode(question.text), END, START, assistant]
            answer = [*encode(question.answer), END]
            words = prompt + answer[:-1]
            ids += words
            segments += [number] * len(words)
            positions += range(first, first + len(words))
            targets += [-100] * (len(prompt) - 1) + answer
        rows.append((ids, segments, positions, targets))
    length = max(len(row[0]) for row in rows)
    fills = (PAD, -1, 0, -100)
    columns = [
        torch.tensor([row[k] + [fill] * (length - len(row[k])) for row in rows])
        for k, fill in enumerate(fills)
    ]
    return Packed(visual, len(opening), *columns)


def attention_mask(packed: Packed, dtype: torch.dtype) -> Tensor:
    """Additive mask (clips, 1, all, all): causal, and a question sees the clip and itself only."""
    clips, text = packed.segments.shape
    visual = torch.zeros(clips, packed.visual, dtype=packed.segments.dtype)
    head, tail = packed.segments[:, : packed.opening], packed.segments[:, packed.opening :]
    segments = torch.cat([head, visual, tail], 1)
    size = text + packed.visual
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    same = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
    blocked = ~(causal & same)
    return torch.zeros(blocked.shape, dtype=dtype).masked_fill_(blocked, torch.finfo(dtype).min)[:, None]
