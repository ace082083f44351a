"""Finding remembered frames by a question: a few keys of each, in one table that never grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import normalize

from streamprune.cache.block import CacheShape

Reading = Literal["attention", "words", "mean"]


@dataclass(frozen=True, eq=False)
class Found:
    """All rows in use, in the order of the stream, with what a question makes of them.

    Attributes:
        rows: (found,) int64.
        numbers: (found,) int64, of their frames.
        scores: (found,) float32, standardised: the mean is about 0.
    """

    rows: torch.Tensor
    numbers: torch.Tensor
    scores: torch.Tensor


class PageIndex:
    """Representative keys of every remembered frame: all of them rotated alike, or none rotated.

    Args:
        shape: of the model.
        layers: that frames are found by.
        representatives: keys of each frame and layer.
        rows: most frames.

    Scoring is one product per layer over the whole table. An index of the faiss library would not be faster:
    scores are standardised over all frames, so all products are needed, and a flat index computes just these.
    """

    def __init__(self, shape: CacheShape, layers: tuple[int, ...], representatives: int, rows: int) -> None:
        self.layers = layers
        self._groups = shape.query_heads // shape.kv_heads
        size = (len(layers), shape.kv_heads, rows, representatives, shape.head_dim)
        device = shape.device
        self.keys = torch.zeros(size, dtype=index_dtype(shape), device=device)
        self.numbers = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.seconds = torch.zeros(rows, dtype=torch.float64, device=device)
        self._free = list(range(rows - 1, -1, -1))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything it holds."""
        return self.keys, self.numbers, self.seconds

    @property
    def room(self) -> int:
        """Rows that are not in use."""
        return len(self._free)

    def add(self, keys: torch.Tensor, number: int, seconds: float) -> int:
        """The row of a frame from now on.

        Args:
            keys: (layers, kv_heads, some, head_dim) of all layers of the model, at least one of each head.
        """
        row = self._free.pop()
        some = keys[list(self.layers)]
        missing = self.keys.shape[3] - some.shape[2]
        if missing > 0:
            # repeated keys change no maximum
            some = torch.cat([some, some[:, :, :1].expand(-1, -1, missing, -1)], 2)
        self.keys[:, :, row] = some.to(self.keys.dtype)
        self.numbers[row], self.seconds[row] = number, seconds
        return row

    def drop(self, row: int) -> None:
        """Find this frame no more."""
        self.numbers[row] = -1
        self._free.append(row)

    def search(self, queries: torch.Tensor, reading: Reading, detrend: bool) -> Found:
        """Score every frame.

        By "attention", the share that each frame gets of the question's attention to all representatives:
        that of the question's last token, plus the largest of any of its tokens, means over heads, added up
        over layers. For this, keys and queries come rotated, as if every frame stood at one place before the
        question.

        Otherwise, of each layer: products of queries, averaged over the query heads of a group, with
        representatives, the largest for each frame; these are standardised over frames. Layers are averaged.

        Args:
            queries: (layers, query_heads, tokens, head_dim) float32, before rotation but for "attention".
            reading: "words" takes the largest of the standardised scores of all heads and tokens; "mean"
                averages queries over tokens first, and takes cosines, as published designs do.
            detrend: whether a straight line over time is taken out of the scores of each layer.
        """
        rows = (self.numbers >= 0).nonzero()[:, 0]
        rows = rows[self.numbers[rows].argsort(stable=True)]
        total = torch.zeros(len(rows), device=rows.device)
        if not len(rows):
            return Found(rows, rows, total)
        seconds = self.seconds[rows]
        for place, layer in enumerate(self.layers):
            keys = self.keys[place].index_select(1, rows).float()
            if reading == "attention":
                total += self._attention(keys, queries[layer].float())
                continue
            of_groups = (keys.shape[0], self._groups, *queries.shape[2:])
            wanted = queries[layer].float().reshape(of_groups).mean(1)
            if reading == "mean":
                wanted, keys = normalize(wanted.mean(1, keepdim=True), dim=-1), normalize(keys, dim=-1)
            products = torch.matmul(keys.flatten(1, 2), wanted.transpose(-1, -2))
            of_frames = (len(keys), len(rows), -1, wanted.shape[1])
            best = products.reshape(of_frames).amax(2).transpose(-1, -2)
            score = _standard(best).amax((0, 1))
            total += _standard(_level(score, seconds) if detrend else score)
        if reading == "attention":
            total = _standard(total) * len(self.layers)
        return Found(rows, self.numbers[rows], total / len(self.layers))

    def _attention(self, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """(found,) what each frame gets in one layer.

        Args:
            keys: (kv_heads, found, representatives, head_dim).
            queries: (query_heads, tokens, head_dim).
        """
        heads, found, some, dim = keys.shape
        asked = queries.reshape(heads, -1, dim)
        logits = torch.matmul(asked, keys.flatten(1, 2).transpose(-1, -2)) * dim**-0.5
        shares = logits.softmax(-1).unflatten(-1, (found, some)).sum(-1)
        of_tokens: torch.Tensor = shares.unflatten(1, (self._groups, -1)).mean((0, 1))
        return of_tokens[-1] + of_tokens.amax(0)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The table."""
        parts = {"keys": self.keys, "numbers": self.numbers, "seconds": self.seconds}
        return {f"index.{name}": tensor for name, tensor in parts.items()}, {"free": list(self._free)}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over the table of one of equal size."""
        for name, own in (("keys", self.keys), ("numbers", self.numbers), ("seconds", self.seconds)):
            own.copy_(tensors[f"index.{name}"])
        self._free = list(about["free"])


def index_dtype(shape: CacheShape) -> torch.dtype:
    """Of representative keys: the model's own, where it takes two bytes."""
    return shape.dtype if shape.dtype.itemsize == 2 else torch.float16


def row_bytes(shape: CacheShape, layers: int, representatives: int) -> int:
    """Of one frame in the index."""
    return layers * shape.kv_heads * representatives * shape.head_dim * 2 + 16


def _standard(x: torch.Tensor) -> torch.Tensor:
    """Mean 0 and deviation 1 along the last axis, or 0 where all are equal."""
    spread = x.std(-1, keepdim=True, correction=0).clamp(min=1e-6)
    return (x - x.mean(-1, keepdim=True)) / spread


def _level(scores: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    """``scores`` (found,) without the straight line over ``seconds`` that fits them best."""
    times = (seconds - seconds.mean()).float()
    slope = (times * scores).sum() / times.square().sum().clamp(min=1e-12)
    return scores - slope * times
