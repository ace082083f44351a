from __future__ import annotations

import pytest
import torch

from streamprune.encoder import layer_attention
from streamprune.encoder.layer_attention import LayerAttention

FRAMES, HEADS, TOKENS, DIM = 3, 2, 11, 4


@pytest.fixture(params=[None, 7, 100, 500], ids=lambda room: f"block {room}")
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(layer_attention, "_BLOCK_SCORES", request.param)


def made(*, bias: bool = False) -> tuple[LayerAttention, torch.Tensor]:
    """An attention and its whole map in float64."""
    generator = torch.Generator().manual_seed(4)
    queries, keys = (torch.randn(FRAMES, HEADS, TOKENS, DIM, generator=generator) for _ in "qk")
    added = torch.rand(FRAMES, TOKENS, generator=generator) if bias else None
    logits = queries.double() @ keys.double().mT * 0.5
    if added is not None:
        logits = logits + added.double()[:, None, None]
    return LayerAttention(queries, keys, 0.5, added), torch.softmax(logits, -1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("bias", [False, True])
def test_blocks_make_up_the_map(bias: bool) -> None:
    attention, expected = made(bias=bias)
    found = torch.zeros(FRAMES, HEADS, TOKENS, TOKENS)
    for frames, rows, block in attention.blocks():
        assert not found[frames, :, rows].any(), "no row twice"
        found[frames, :, rows] = block
    torch.testing.assert_close(found, expected.float())


@pytest.mark.usefixtures("small_blocks")
def test_sums_over_the_map() -> None:
    attention, expected = made(bias=True)
    torch.testing.assert_close(attention.received(), expected.mean(2).float())
    share = torch.rand(FRAMES, HEADS, TOKENS)
    votes = (share.double()[:, :, None] @ expected)[:, :, 0]
    torch.testing.assert_close(attention.received(share), votes.float())
    received, own = attention.received_and_own()
    torch.testing.assert_close(received, expected.mean(2).float())
    torch.testing.assert_close(own, expected.diagonal(dim1=-2, dim2=-1).float())


def test_a_whole_map_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_attention, "_BLOCK_SCORES", 60)
    attention, _ = made()
    assert all(block.numel() <= 60 for _, _, block in attention.blocks())
