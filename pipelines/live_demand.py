"""How many tokens a frame of a stream asks for: as many as have changed more than tokens usually do."""

from __future__ import annotations

import torch

from streamprune.cache.held_tensors import HeldTensors
from streamprune.cache.ledger import Ledger
from streamprune.ops.selection import lowest
from streamprune.ops.temporal import row_cosine
from streamprune.tokens import VisualTokens

# changes, 1 - cosine, are counted in steps of an eighth of an octave from here on; they end at 2
_LEAST_CHANGE = 1e-7
_STEPS_PER_OCTAVE = 8
_STEPS = 200
# so many frames say what is usual, and how long a frame lasts
_MEMORY_FRAMES = 64
_MEMORY_TIMES = 16


class Demand:
    """Which tokens of each frame have changed since tokens were last asked for at their places.

    What was asked for counts as seen, granted or not; elsewhere slow drift goes on adding up. How much a
    token has to change follows from what comes: of all tokens of the last frames, the earned share is to ask.
    So quiet frames ask for fewer and busy ones for more, however alike a model's tokens are by nature.

    Args:
        threshold: a token has changed when its cosine is below this, in [-1, 1]; None = as above.
        ledger: asked for what is remembered, tier "frames".

    Source: EVS (arXiv 2510.14624) keeps the most changed tokens of a whole clip; this is its ranking with
    frames up to now alone, and against what was last asked for in place of the frame before.
    """

    def __init__(self, threshold: float | None, ledger: Ledger | None) -> None:
        self.threshold = threshold
        self.held = HeldTensors(ledger, "frames")

    def changed(self, tokens: VisualTokens, pts_seconds: float, tokens_per_second: float) -> torch.Tensor:
        """(tokens,) bool; all of the first frame, or of one after :meth:`HeldTensors.forget`."""
        held = self.held.values
        if not held:
            return torch.ones(len(tokens), dtype=torch.bool, device=tokens.features.device)
        cosine = row_cosine(tokens.features, held["features"])
        if self.threshold is not None:
            return cosine < self.threshold
        step_seconds = float(self._times(pts_seconds)[1])
        share = min(1.0, tokens_per_second * step_seconds / len(tokens))
        steps = _steps(cosine)
        counts = self._counts(steps)
        room = share * float(counts.sum())
        # weight of all changes of more than each step, and the step at which it is what may ask
        above = counts.sum() - counts.cumsum(0)
        usual = int((above > room).sum())
        asking = steps > usual
        if usual > 0:  # of those at that step, the part that there is room for
            part = (room - float(above[usual])) / float(counts[usual])
            at_it = (steps == usual).nonzero()[:, 0]
            asking[at_it[lowest(cosine[at_it], round(part * len(at_it)))]] = True
        return asking

    def answered(
        self, tokens: VisualTokens, changed: torch.Tensor, kept: torch.Tensor, pts_seconds: float
    ) -> None:
        """Remember the frame, of which the tokens ``changed`` were asked for and those at ``kept`` stay."""
        seen = changed.clone()
        seen[kept] = True
        held = self.held.values
        if not held:
            counts = torch.zeros(_STEPS, dtype=torch.float64)
            times = torch.tensor([pts_seconds, 0.0], dtype=torch.float64)
            self.held.keep({"features": tokens.features, "counts": counts, "times": times})
            return
        counts = self._counts(_steps(row_cosine(tokens.features, held["features"])))
        features = torch.where(seen[:, None], tokens.features, held["features"])
        self.held.keep({"features": features, "counts": counts, "times": self._times(pts_seconds)})

    def _counts(self, steps: torch.Tensor) -> torch.Tensor:
        """(_STEPS,) how often tokens have changed by each step, this frame's included, the latest most."""
        new = torch.bincount(steps.cpu(), minlength=_STEPS).double()
        return self.held.values["counts"] * (1 - 1 / _MEMORY_FRAMES) + new

    def _times(self, pts_seconds: float) -> torch.Tensor:
        """(2,) the time of this frame, and how long frames last on average."""
        last, mean = self.held.values["times"].tolist()
        passed = pts_seconds - last
        if passed > 0:
            mean = passed if mean == 0 else mean + (passed - mean) / _MEMORY_TIMES
        return torch.tensor([pts_seconds, mean], dtype=torch.float64)


def _steps(cosine: torch.Tensor) -> torch.Tensor:
    """(tokens,) int64, 0 where nothing has changed, up to _STEPS - 1."""
    octaves = ((1 - cosine.double()).clamp(min=_LEAST_CHANGE) / _LEAST_CHANGE).log2()
    return (octaves * _STEPS_PER_OCTAVE).long().clamp(max=_STEPS - 1)
