"""Projections made once more against the attention maps that eager attention returns."""

from __future__ import annotations

import pytest
import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.models.attention_rows import DecoderProjections, check_projections
from streamprune.ops.attention_rows import attention_rows
from tests.in_llm.small_decoder import prompt, small_decoder


@pytest.mark.parametrize("number", [0, 2])
def test_rows_equal_those_of_eager_attention(number: int) -> None:
    model, ids = small_decoder("eager"), prompt()
    with torch.no_grad():
        out = model(ids, output_attentions=True, output_hidden_states=True)
    decoder = model.get_decoder()
    cos, sin = decoder.rotary_emb(out.hidden_states[0], torch.arange(ids.shape[1])[None])
    states = out.hidden_states[number][0]
    layer = DecoderProjections(decoder.layers[number], states, (cos[0], sin[0]), states.device)
    rows = torch.tensor([3, 20, ids.shape[1] - 1])
    torch.testing.assert_close(layer.attention(rows), out.attentions[number][0, :, rows], atol=1e-6, rtol=0)


def test_positions_do_not_touch_what_is_not_rotated() -> None:
    model, states = small_decoder(), torch.randn(6, 64)
    tables = [torch.randn(6, 16), torch.randn(6, 16)]
    layers = [
        DecoderProjections(model.get_decoder().layers[1], states, (table, table), states.device)
        for table in tables
    ]
    rows = torch.tensor([5])
    assert torch.equal(*(layer.keys(rotated=False) for layer in layers))
    assert torch.equal(*(layer.queries(rows, rotated=False) for layer in layers))
    assert not torch.equal(*(layer.keys() for layer in layers))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="layers of the kind Linear are unknown"):
        check_projections(torch.nn.Linear(2, 2), "model")


@pytest.mark.parametrize(
    ("queries", "keys"),
    [((3, 1, 4), (2, 5, 4)), ((2, 1, 4), (2, 5, 3)), ((2, 4), (2, 5, 4)), ((2, 1, 4), (0, 5, 4))],
)
def test_shapes_that_do_not_fit(queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValueError, match="heads a multiple of key heads"):
        attention_rows(torch.zeros(queries), torch.zeros(keys), 1.0)
