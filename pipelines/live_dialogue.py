"""What was asked and answered about a stream before, as text that later questions see."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from streamprune.cache.ledger import Ledger
from streamprune.models.stream_model import Chunk, StreamModel
from streamprune.pipelines.live_states import State
from streamprune.tokens import VideoGrid

Turn = tuple[str, str]


class Dialogue:
    """Questions and their answers, the oldest forgotten where there is no room.

    Args:
        ledger: asked for every turn.
        max_bytes: of all turns, as UTF-8.
    """

    def __init__(self, ledger: Ledger, max_bytes: int) -> None:
        self._ledger, self._max_bytes = ledger, max_bytes
        self._lock = threading.Lock()
        self._turns: list[torch.Tensor] = []

    def add(self, question: str, answer: str) -> None:
        """Remember one more; one that is larger than all room is not."""
        text = json.dumps([question, answer], ensure_ascii=False).encode()
        turn = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        with self._lock:
            while self._turns and self._held + turn.nbytes > self._max_bytes:
                self._ledger.drop("dialogue", self._turns.pop(0))
            if self._held + turn.nbytes <= self._max_bytes:
                self._turns.append(self._ledger.hold("dialogue", turn))

    @property
    def _held(self) -> int:
        return sum(turn.nbytes for turn in self._turns)

    def turns(self) -> list[Turn]:
        """(question, answer), the oldest first."""
        with self._lock:
            found = [json.loads(bytes(turn.tolist()).decode()) for turn in self._turns]
        return [(question, answer) for question, answer in found]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""
        with self._lock:
            return iter(tuple(self._turns))

    def state(self) -> State:
        """What :meth:`restore` goes on from."""
        with self._lock:
            return {f"turn{place:06}": turn for place, turn in enumerate(self._turns)}, {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on where :meth:`state` was taken."""
        self.clear()
        with self._lock:
            self._turns = [self._ledger.hold("dialogue", tensors[name].clone()) for name in sorted(tensors)]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for turn in self._turns:
                self._ledger.drop("dialogue", turn)
            self._turns = []


def dialogue_tail(model: StreamModel, grid: VideoGrid, turns: Sequence[Turn], question: str) -> Chunk:
    """What stands behind the last frame: ``turns`` and ``question``, up to where its answer begins."""
    if not turns:
        return model.tail(grid, question)
    first, answer = turns[0]
    tail = model.tail(grid, first)
    tokenizer, ids = model.family.tokenizer, []
    for later, text in [*turns[1:], (question, "")]:
        ids += tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids += model.family.next_turn_ids(later)
        answer = text
    more = model.text(ids, len(tail.span))
    after = tail.offsets[:, -1:] + 1
    return replace(
        tail,
        embeds=torch.cat([tail.embeds, more.embeds], 1),
        ids=torch.cat([tail.ids, more.ids]),
        offsets=torch.cat([tail.offsets, more.offsets + after], 1),
        cells=torch.cat([tail.cells, more.cells]),
    )
