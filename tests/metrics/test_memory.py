from __future__ import annotations

import sys

import pytest
import torch
from transformers import DynamicCache

from streamprune.metrics.memory import PeakMemory, kv_bytes, tensor_bytes


def test_a_storage_counts_once_and_whole() -> None:
    base = torch.zeros(1000, dtype=torch.float32)
    other = torch.zeros(10, dtype=torch.float16)
    assert tensor_bytes([base[:10], base[5:], base.view(10, 100), other]) == 4000 + 20
    assert tensor_bytes([]) == 0


def test_cache_bytes_are_those_of_its_keys_and_values() -> None:
    cache = DynamicCache()
    for layer in range(3):
        cache.update(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8), layer)
    assert kv_bytes(cache) == 3 * 2 * (2 * 5 * 8) * 4
    assert kv_bytes(None) == 0


def test_a_sliced_cache_still_holds_its_base() -> None:
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, 100, 8), torch.zeros(1, 2, 100, 8), 0)
    before = kv_bytes(cache)
    cache.layers[0].keys = cache.layers[0].keys[:, :, :10]
    assert kv_bytes(cache) == before
    cache.layers[0].keys = cache.layers[0].keys.contiguous()
    assert kv_bytes(cache) == before // 2 + before // 20


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark can be reset on Linux only")
def test_the_peak_is_seen_after_it_has_passed_and_forgotten_by_the_next() -> None:
    size = 64 * 2**20
    peak = PeakMemory(torch.device("cpu")).start()
    block = torch.ones(size // 4)
    del block
    assert 0.9 * size <= peak.read() <= 2 * size
    following = PeakMemory(torch.device("cpu")).start()
    assert following.read() < size // 8
