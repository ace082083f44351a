"""One layer of a stock vision tower, run for some of its rows: norm, projections, attention, feed-forward.

What a whole layer computes is left to the stock module; hooks catch what is to be remembered of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from streamprune.ops.rotary import rotate

# norm, attention, norm, feed-forward, factors of what the two give: SigLIP and CLIP, InternVL, Qwen
_PARTS = (
    ("layer_norm1", "self_attn", "layer_norm2", "mlp", None, None),
    ("layernorm_before", "attention", "layernorm_after", "mlp", "lambda_1", "lambda_2"),
    ("norm1", "attn", "norm2", "mlp", None, None),
)
_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
_OUTPUTS = ("out_proj", "projection_layer", "proj")


@dataclass(frozen=True, eq=False)
class Around:
    """What a stock layer is told beside its states.

    Attributes:
        tables: cosines and sines, (tokens, head width) each, that turn queries and keys; None = none do.
        ends: where each window of tokens ends that attend to each other; the last is the number of tokens.
    """

    tables: tuple[torch.Tensor, torch.Tensor] | None
    ends: tuple[int, ...]

    @classmethod
    def read(cls, arguments: Mapping[str, Any], tokens: int) -> Around:
        """Out of the keyword ``arguments`` of a stock layer."""
        bounds: torch.Tensor | None = arguments.get("cu_seqlens")
        windows = bounds is not None and len(bounds) > 2
        ends = tuple(bounds.tolist()[1:]) if windows and bounds is not None else (tokens,)
        return cls(arguments.get("position_embeddings"), ends)

    def turned(self, rows: torch.Tensor, heads: int, index: torch.Tensor | None) -> torch.Tensor:
        """(rows, width) turned by their places, which are ``index`` or all in order."""
        if self.tables is None:
            return rows
        cos, sin = (table if index is None else table[index] for table in self.tables)
        split = rows.reshape(len(rows), heads, -1).float()
        return rotate(split, cos[:, None].float(), sin[:, None].float()).flatten(1).to(rows.dtype)


class TowerLayer:
    """A layer in parts; rows are (rows, width), all heads beside each other.

    Args:
        module: the stock layer.
    """

    def __init__(self, module: nn.Module) -> None:
        before, attention, after, feed, *factors = next(parts for parts in _PARTS if _has(module, parts))
        self.module: Any = module
        self._before: Any = getattr(module, before)
        self._attention: Any = getattr(module, attention)
        self._after: Any = getattr(module, after)
        self._feed: Any = getattr(module, feed)
        self._factors = [None if name is None else getattr(module, name) for name in factors]
        self._fused = hasattr(self._attention, "qkv")
        names = () if self._fused else next(n for n in _PROJECTIONS if hasattr(self._attention, n[0]))
        self._projections: list[Any] = [getattr(self._attention, name) for name in names]
        self._norms: list[Any] = [getattr(self._attention, name, None) for name in ("q_norm", "k_norm")]
        self._out: Any = next(getattr(self._attention, n) for n in _OUTPUTS if hasattr(self._attention, n))
        self.heads = int(self._attention.num_heads)
        scale = getattr(self._attention, "scaling", None)
        self._scale = float(self._attention.scale if scale is None else scale)

    @property
    def weight(self) -> torch.Tensor:
        """(width,) of the first norm, in the dtype of the states."""
        weight: torch.Tensor = self._before.weight
        return weight

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` has the parts of a known kind."""
        return any(_has(module, parts) for parts in _PARTS)

    def normed(self, rows: torch.Tensor) -> torch.Tensor:
        """What the attention reads."""
        out: torch.Tensor = self._before(rows)
        return out

    def keys(self, normed: torch.Tensor, around: Around, index: torch.Tensor | None = None) -> torch.Tensor:
        """Of all tokens, or of those at ``index``."""
        return around.turned(self._project(normed, 1), self.heads, index)

    def queries(self, normed: torch.Tensor, around: Around, index: torch.Tensor) -> torch.Tensor:
        """Of the tokens at ``index``."""
        return around.turned(self._project(normed, 0), self.heads, index)

    def values(self, normed: torch.Tensor) -> torch.Tensor:
        """Of any rows."""
        return self._project(normed, 2)

    def attended(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        around: Around,
        index: torch.Tensor,
    ) -> torch.Tensor:
        """What the attention gives the tokens at ``index``, ascending, that ask all ``keys`` of theirs."""
        return self.scaled(self._out(self._asked(queries, keys, values, around, index)), 0)

    def fed(self, rows: torch.Tensor) -> torch.Tensor:
        """What the feed-forward half gives."""
        return self.scaled(self._feed(self._after(rows)), 1)

    @contextmanager
    def caught(self, *, halves: bool) -> Iterator[Caught]:
        """What the stock layer computes for all tokens while it runs in here; leaves no hook behind.

        Args:
            halves: whether what its two halves give is kept, beside keys and values.
        """
        found = Caught(self)
        if self._fused:
            watched = {"qkv": self._attention.qkv}
        else:
            norm = self._norms[1]
            watched = {"keys": self._projections[1] if norm is None else norm, "values": self._projections[2]}
        if halves:
            watched |= {"attended": self._attention, "fed": self._feed}
        handles = [module.register_forward_hook(found.keeper(name)) for name, module in watched.items()]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def _asked(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        around: Around,
        index: torch.Tensor,
    ) -> torch.Tensor:
        """What the queries find, window by window."""
        if len(around.ends) == 1:
            return self._mix(queries, keys, values)
        found, start, asked = [], 0, 0
        until = torch.searchsorted(index, index.new_tensor(around.ends)).tolist()
        for end, stop in zip(around.ends, until, strict=True):
            if stop > asked:
                found.append(self._mix(queries[asked:stop], keys[start:end], values[start:end]))
            start, asked = end, stop
        return torch.cat(found)

    def _mix(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.view(1, len(part), self.heads, -1).transpose(1, 2) for part in (queries, keys, values)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self._scale)
        return mixed[0].transpose(0, 1).flatten(1)

    def _project(self, normed: torch.Tensor, which: int) -> torch.Tensor:
        """Queries, keys or values, before any turning."""
        if not self._fused:
            rows: torch.Tensor = self._projections[which](normed)
            norm = self._norms[which] if which < 2 else None
            return rows if norm is None else norm(rows)
        whole = self._attention.qkv
        if type(whole) is not nn.Linear:  # quantised: there is no part of its weights
            part: torch.Tensor = whole(normed).chunk(3, -1)[which]
            return part
        weight = whole.weight.chunk(3)[which]
        bias = None if whole.bias is None else whole.bias.chunk(3)[which]
        return nn.functional.linear(normed, weight, bias)

    def scaled(self, rows: torch.Tensor, half: int) -> torch.Tensor:
        """What the attention (0) or feed-forward (1) half gave, by the factors that a layer may have."""
        factor = self._factors[half]
        return rows if factor is None else factor * rows


class Caught:
    """What hooks kept of a whole layer; (tokens, width) each."""

    def __init__(self, layer: TowerLayer) -> None:
        self._layer = layer
        self._found: dict[str, torch.Tensor] = {}

    def keeper(self, name: str) -> Any:
        """A hook."""

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            rows = output[0] if isinstance(output, tuple) else output
            self._found[name] = rows.flatten(0, -2)

        return keep

    def keys(self, around: Around) -> torch.Tensor:
        """Turned."""
        rows = self._found["qkv"].chunk(3, -1)[1] if "qkv" in self._found else self._found["keys"]
        return around.turned(rows, self._layer.heads, None)

    def values(self) -> torch.Tensor:
        """As they are."""
        return self._found["qkv"].chunk(3, -1)[2] if "qkv" in self._found else self._found["values"]

    def attended(self) -> torch.Tensor:
        """What the attention gave."""
        return self._layer.scaled(self._found["attended"], 0)

    def fed(self) -> torch.Tensor:
        """What the feed-forward half gave."""
        return self._layer.scaled(self._found["fed"], 1)


def tower_layers(tower: Any) -> list[TowerLayer]:
    """The layers of ``tower`` from the first; none where they are of no known kind."""
    encoder = getattr(tower, "encoder", None)
    for owner, name in ((encoder, "layers"), (encoder, "layer"), (tower, "blocks")):
        modules = list(getattr(owner, name, ()))
        if modules and all(TowerLayer.fits(module) for module in modules):
            return [TowerLayer(module) for module in modules]
    return []


def _has(module: nn.Module, parts: Sequence[str | None]) -> bool:
    if not all(name is None or hasattr(module, name) for name in parts):
        return False
    attention = getattr(module, str(parts[1]))
    projected = hasattr(attention, "qkv") or any(hasattr(attention, names[0]) for names in _PROJECTIONS)
    return projected and any(hasattr(attention, name) for name in _OUTPUTS)
