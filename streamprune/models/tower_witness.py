"""What happened to patches inside a vision tower, for whoever wants to show it.

with witnessed_tower() as seen:
    family.encode(pixels, encoder=ToMe())
seen.climbs[0].left_at

Nothing is noted, and nothing costs anything, outside such a block. It sees what its own thread does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from streamprune.encoder.base import TowerShape
from streamprune.encoder.token_map import TokenMap


@dataclass(frozen=True, eq=False)
class Climb:
    """What became of the patches of some frames that went up a tower together.

    Patches are numbered through, ``frame * patches + patch``.

    Attributes:
        shape: of the tower.
        frames: that went up.
        layers: layers in or after which something was decided, ascending.
        left_at: (frames * patches,) int64, which of ``layers``, from 0, let each go; -1 = none did.
        into: (frames * patches,) int64, the patch that stood for it from there on, itself if none did.
        merged: (frames * patches,) bool: its content went into that patch; False = it was only read back.
        tokens: for each layer of the tower, the patches of all frames that entered it.
    """

    shape: TowerShape
    frames: int
    layers: tuple[int, ...]
    left_at: torch.Tensor
    into: torch.Tensor
    merged: torch.Tensor
    tokens: tuple[int, ...]


@dataclass(eq=False)
class TowerWitness:
    """What was seen so far, in the order of the frames.

    Attributes:
        climbs: of methods that let fewer patches go on.
        recomputed: of methods that remember frames: for each frame of tokens (layers, rows, cols) bool, the
            cells of the token grid of which each layer computed some patch anew.
    """

    climbs: list[Climb] = field(default_factory=list)
    recomputed: list[torch.Tensor] = field(default_factory=list)

    def climbed(
        self,
        shape: TowerShape,
        frames: int,
        steps: Sequence[tuple[int, TokenMap]],
        tokens: Sequence[int],
    ) -> None:
        """Note a run of ``frames``, with what each deciding layer made of its tokens."""
        total = frames * shape.tokens
        device = steps[0][1].index.device if steps else torch.device("cpu")
        # the patch that each token of the moment stands for
        patch = torch.arange(total, device=device)
        left_at, into = torch.full_like(patch, -1), patch.clone()
        merged = torch.zeros(total, dtype=torch.bool, device=device)
        for place, (_, step) in enumerate(steps):
            standing = step.index.flatten()
            gone = torch.ones(len(patch), dtype=torch.bool, device=device)
            gone[standing] = False
            own = patch[gone]
            left_at[own], into[own] = place, patch[standing[step.slot.flatten()[gone]]]
            merged[own] = _mixed_in(step, len(patch))[gone]
            patch = patch[standing]
        layers = tuple(layer for layer, _ in steps)
        self.climbs.append(
            Climb(shape, frames, layers, left_at.cpu(), into.cpu(), merged.cpu(), tuple(tokens))
        )


def _mixed_in(step: TokenMap, tokens: int) -> torch.Tensor:
    """(tokens,) bool: which entering tokens have a weight in any that leaves."""
    mixed = torch.zeros(tokens, dtype=torch.bool, device=step.index.device)
    if step.mix is not None:
        return step.mix.ne(0).any(1).flatten()
    if step.entries is None:
        return mixed
    _, token, weight = step.entries
    mixed[token[weight != 0]] = True
    return mixed


_WITNESS: ContextVar[TowerWitness | None] = ContextVar("tower_witness", default=None)


@contextmanager
def witnessed_tower() -> Iterator[TowerWitness]:
    """Note what methods inside a vision tower do while the block lasts."""
    witness = TowerWitness()
    token = _WITNESS.set(witness)
    try:
        yield witness
    finally:
        _WITNESS.reset(token)


def tower_witness() -> TowerWitness | None:
    """Who is to be told; None outside :func:`witnessed_tower`."""
    return _WITNESS.get()
