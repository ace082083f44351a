"""Cosine distances of many rows, asked for a block at a time."""

from __future__ import annotations

import torch

from streamprune.ops.similarity import inner_products

# values from which on laying rows out for oneDNN pays
_PACKED_FROM = 2**20
# rows widened to float64 at a time
_EXACT_ROWS = 1024
# stands for "no similarity"; finite, because a zero row multiplies it by 0
_NONE = torch.finfo(torch.float32).min


class CosineRows:
    """Rows whose cosine distances (1 - cosine) are wanted in blocks; a zero row is at distance 1 of all.

    On a CPU the rows are laid out for oneDNN once: products of a few of them with all then run more than
    twice as fast as products of plain matrices.

    Args:
        values: (rows, channels) of any float type; computed with in float32.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.rows = values.detach().float().contiguous()
        length = torch.linalg.vector_norm(self.rows, dim=-1)
        self._scale = torch.where(length > 0, 1 / length, 0.0)
        self._packed: torch.Tensor | None = None
        large = self.rows.numel() >= _PACKED_FROM
        if large and self.rows.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            self._packed = self.rows.to_mkldnn()

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def everyone(self) -> torch.Tensor:
        """(rows,) every index."""
        return torch.arange(len(self), device=self.rows.device)

    def similarities(self, index: torch.Tensor) -> torch.Tensor:
        """(len(index), rows) float32 cosines of some rows with every row."""
        return self._products(index).mul_(self._scale)

    def to_nearest_of(self, index: torch.Tensor) -> torch.Tensor:
        """(rows,) float32: how far each row is from the nearest of the rows ``index``, itself left out."""
        # a row's own length cannot change which is nearest: scaled once, not once per product
        return 1 - self._products_with_others(index).amax(0) * self._scale

    def to_nearest(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far each of the rows ``index`` is from its nearest other, and :meth:`to_nearest_of` them."""
        products = self._products_with_others(index)
        of_them = 1 - products.amax(0) * self._scale
        return 1 - products.mul_(self._scale).amax(1), of_them

    def between(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """(len(left), len(right)) float32 distances; infinite where both sides are the same row."""
        left_rows = self.rows[left]
        products = inner_products(left_rows, left_rows if right is left else self.rows[right])
        distances = products.mul_(self._scale[left, None]).mul_(self._scale[right]).neg_().add_(1)
        return distances.masked_fill_(left[:, None] == right, float("inf"))

    def carefully_between(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """:meth:`between` for few rows, taken in float64 and rounded once to float32.

        Free of the rounding of float32 sums, which no two products of different shapes share; rounded as
        distances, which small ones survive and the noise of float64 sums, all that tells copies apart, does
        not.
        """
        unit = _unit_float64(self.rows[left])
        parts = [
            (1 - unit @ _unit_float64(self.rows[part]).T).float() for part in torch.split(right, _EXACT_ROWS)
        ]
        return torch.cat(parts, 1).masked_fill_(left[:, None] == right, float("inf"))

    def to_shifted(self, offset: int) -> torch.Tensor:
        """(rows - offset,) float32 distance of each row from the one ``offset`` later."""
        stop = len(self) - offset
        products = torch.empty(stop, device=self.rows.device)
        for start in range(0, stop, offset):
            here = slice(start, min(start + offset, stop))
            there = slice(start + offset, min(start + 2 * offset, len(self)))
            products[here] = (self.rows[here] * self.rows[there]).sum(-1)
        return 1 - products * self._scale[:stop] * self._scale[offset:]

    def _products_with_others(self, index: torch.Tensor) -> torch.Tensor:
        """:meth:`_products`, where a row's product with itself says that it is like nothing."""
        return self._products(index).scatter_(1, index[:, None], _NONE)

    def _products(self, index: torch.Tensor) -> torch.Tensor:
        """(len(index), rows) inner products of normalised rows with the rows as given."""
        left = self.rows[index] * self._scale[index, None]
        if self._packed is None:
            return left @ self.rows.T
        return torch.nn.functional.linear(left.to_mkldnn(), self._packed).to_dense()


def _unit_float64(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.double()
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(length > 0, rows / length, 0.0)
