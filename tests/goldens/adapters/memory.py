"""Memories of a stream: which blocks are brought back."""

from __future__ import annotations

import torch

from streamprune.cache.block import Block
from streamprune.cache.block_queue import mean_key
from streamprune.cache.rekv import ReKV
from streamprune.cache.retrieving import Limits, chosen_in_layers
from tests.goldens.case import Case


def replay_rekv(case: Case) -> None:
    hp = case.hp
    size = hp["block"]
    text = torch.arange(size, dtype=torch.int32)
    means = []
    for number, keys in enumerate(torch.split(case.given("k")[None], size, 2)):
        seconds = float(number), number + 1.0
        block = Block(number, *seconds, keys, keys, text[None], (number * size,), (size,), text)
        means.append(mean_key(block))
    method = ReKV(topk=hp["topk"], chunk_size=hp["chunk_size"])
    likeness = method.likeness(torch.stack(means), case.given("q")[None])
    if case.arrays["out_similarity"].size:
        case.close("similarity", likeness[0])
    limits = Limits(size * hp["frames"], hp["topk"], together=hp["chunk_size"])
    (chosen,) = chosen_in_layers(likeness, [size] * hp["frames"], limits)
    assert all(tokens == size for _, tokens in chosen)
    case.same("blocks", [page for page, _ in chosen])


ADAPTERS = {"rekv_retrieval": replay_rekv}
