"""Which token of its row each new entry stands for."""

from __future__ import annotations

import torch


class TokenNumbers:
    """Counts the tokens of each row, padding aside.

    Attributes:
        has_padding: whether there has been any.
        since_padding: tokens since the last call that brought some.
        counts: (rows, 1) int32 tokens so far.
    """

    def __init__(self, rows: int, seen: int, device: torch.device) -> None:
        self.has_padding = False
        self.since_padding = seen
        self.counts = torch.full((rows, 1), seen, dtype=torch.int32, device=device)

    def next(self, new: int, visible: torch.Tensor | None) -> torch.Tensor:
        """(rows, new) int32 numbers of the next ``new`` tokens, -1 = padding.

        Args:
            visible: (rows or 1, new) bool, False = padding; None = no padding.
        """
        if visible is None:
            steps = torch.arange(new, device=self.counts.device, dtype=torch.int32)
            numbers = self.counts + steps
            self.counts, self.since_padding = self.counts + new, self.since_padding + new
            return numbers
        visible = visible.to(self.counts.device).expand(len(self.counts), new)
        steps = visible.cumsum(-1, dtype=torch.int32)
        numbers = torch.where(visible, self.counts + steps - 1, -1)
        self.counts, self.has_padding, self.since_padding = self.counts + steps[:, -1:], True, 0
        return numbers

    def forget(self, removed: int) -> None:
        """Take back the last ``removed`` tokens of every row."""
        self.counts = self.counts - removed
        self.since_padding -= removed
