"""The signals of one video, computed while encoding or when somebody first asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from streamprune.errors import SignalError

# computes signals of a video that was encoded before; returns them and the milliseconds it took
Late = Callable[[Sequence[str]], tuple[Mapping[str, torch.Tensor], float]]


class Signals(Mapping[str, torch.Tensor]):
    """Signals by name. Those that are held can be iterated; others are computed late, where that is possible.

    Args:
        computed: what was computed while encoding.
        late: the way to compute others; None when nothing was kept to compute them from.
        check: raises SignalError for names that the model cannot give.
    """

    def __init__(
        self,
        computed: Mapping[str, torch.Tensor],
        late: Late | None,
        check: Callable[[Sequence[str]], None],
    ) -> None:
        self._computed = dict(computed)
        self._late = late
        self._check = check
        self._late_ms: dict[tuple[str, ...], float] = {}
        self._lock = threading.RLock()  # two threads that ask for the same shall compute it once

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._computed:
            self.prepare([name])
        return self._computed[name]

    def prepare(self, names: Sequence[str]) -> None:
        """Compute those of ``names`` that are missing, in one go."""
        with self._lock:
            missing = tuple(name for name in names if name not in self._computed)
            if not missing:
                return
            self._check(missing)
            if self._late is None:
                raise SignalError(
                    f"the signal {missing[0]!r} was not computed when this video was encoded; encode it "
                    f"again with signals={missing!r}, or without signals=, which keeps the frames for later"
                )
            found, self._late_ms[missing] = self._late(missing)
            self._computed.update(found)

    def late_ms(self, names: Sequence[str]) -> float:
        """Milliseconds that the late ones among ``names`` took, together with what was computed with them."""
        return sum(ms for those, ms in self._late_ms.items() if set(those) & set(names))

    def __contains__(self, name: object) -> bool:
        return name in self._computed

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed)

    def __len__(self) -> int:
        return len(self._computed)
