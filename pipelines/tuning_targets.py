"""What a tuned recipe has to meet, and what it is chosen by among those that do. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError

Quantity = Literal["loss", "ttft_ms", "memory_bytes"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

# loss in points, time to the first token in milliseconds, bytes
Values: TypeAlias = "tuple[float, float, float]"

# an excess of loss is told as a share of the target, or of this many points where the target is smaller
_LEAST_POINTS = 1.0
_DAY_MS = 86_400_000.0


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Bounds that are to be met, at least one of them.

    What has no bound is made as small as possible: the loss where it has none, else the time to the first
    token, else the memory; with all three bounds the loss again. Between recipes that are equal in that, the
    other two decide in the same order.

    Args:
        max_loss: most points of accuracy, or of loyalty, below the full model, in [0, 100].
        ttft_ms: longest time from the file to the first token.
        memory_bytes: most memory that an answer may need beside the model.
    """

    max_loss: float | None = None
    ttft_ms: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.bounds == (None, None, None):
            raise InvalidValueError(
                "tune needs a target: max_loss (--max-loss), ttft_ms (--ttft-ms) or memory_bytes "
                "(--memory-bytes), or several of them"
            )
        if self.max_loss is not None:
            check_number("max_loss", self.max_loss, 0, 100)
        if self.ttft_ms is not None:
            check_number("ttft_ms", self.ttft_ms, 0, _DAY_MS)
            if not self.ttft_ms:
                raise InvalidValueError("ttft_ms must be above 0: no answer takes no time")
        if self.memory_bytes is not None:
            check_count("memory_bytes", self.memory_bytes)

    @property
    def bounds(self) -> tuple[float | None, float | None, float | None]:
        """Of each of :data:`QUANTITIES`, in their order."""
        return self.max_loss, self.ttft_ms, self.memory_bytes

    @property
    def objective(self) -> Quantity:
        """What is made as small as possible."""
        free = [name for name, bound in zip(QUANTITIES, self.bounds, strict=True) if bound is None]
        return free[0] if free else QUANTITIES[0]

    def excess(self, values: Sequence[float]) -> float:
        """By how much ``values`` are over the bounds, as a sum of shares of them; 0 when all are met."""
        total = 0.0
        for name, value, bound in zip(QUANTITIES, values, self.bounds, strict=True):
            if bound is not None and value > bound:
                total += (value - bound) / (max(bound, _LEAST_POINTS) if name == "loss" else bound)
        return total

    def order(self, values: Sequence[float]) -> tuple[float, ...]:
        """Sorts what meets the targets: the smallest is the best."""
        first = QUANTITIES.index(self.objective)
        return (values[first], *(value for number, value in enumerate(values) if number != first))

    def describe(self) -> str:
        """One line for people."""
        told = []
        if self.max_loss is not None:
            told.append(f"loss at most {self.max_loss:g} points")
        if self.ttft_ms is not None:
            told.append(f"first token within {self.ttft_ms:g} ms")
        if self.memory_bytes is not None:
            told.append(f"memory at most {self.memory_bytes / 1e6:g} MB")
        least = {
            "loss": "the least loss",
            "ttft_ms": "the earliest first token",
            "memory_bytes": "the least memory",
        }
        return f"{', '.join(told)}; of these {least[self.objective]}"
