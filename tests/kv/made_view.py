"""A layer's cache after one prompt, from bare tensors."""

from __future__ import annotations

import dataclasses

import torch

from streamprune.kv.base import Policy
from streamprune.kv.view import LayerView


def view_of(
    keys: torch.Tensor,
    values: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    *,
    layer: int = 0,
    depth: int = 1,
) -> LayerView:
    """One row and one head from (entries, dim), or (rows, heads, entries, dim) as they are."""
    keys = _whole(keys)
    held = keys.shape[2]
    return LayerView(
        keys=keys,
        values=keys if values is None else _whole(values),
        tokens=torch.arange(held).expand(keys.shape[:3]),
        new=held,
        seen=held,
        prompt=held,
        layer=layer,
        depth=depth,
        queries=None if queries is None else _whole(queries),
        scaling=1.0,
    )


def _whole(rows: torch.Tensor) -> torch.Tensor:
    return rows if rows.ndim == 4 else rows[None, None]


def random_view(
    entries: int = 30, *, heads: int = 2, group: int = 2, dim: int = 8, seed: int = 0
) -> LayerView:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 1, heads, entries, dim, generator=generator)
    queries = torch.randn(1, heads * group, entries, dim, generator=generator)
    return view_of(keys, values, queries)


def chosen(policy: Policy, view: LayerView) -> list[list[int]]:
    """Entries that each head of the first row keeps."""
    told = dataclasses.replace(view, state=policy.observe(view))
    kept = policy.choose(told, entry_bytes=1)
    assert kept is not None
    return [list(map(int, head)) for head in kept[0]]
