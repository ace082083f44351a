"""One method on one family's small model: it keeps its promises there, or refuses and says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from streamprune.catalog.info import MethodInfo
from streamprune.errors import SignalError, UnsupportedModelError
from streamprune.pipelines.offline import Answer, VideoLLM
from streamprune.recipe import Choice, Recipe
from streamprune.registry import list_methods
from tests.encoder.table import ROWS as ENCODER_ROWS
from tests.encoder.table import Row as EncoderRow
from tests.in_llm.table import ROWS as IN_LLM_ROWS
from tests.in_llm.table import Row as InLLMRow

QUESTION = "what colour is the circle ?"
KEEP_RATIOS: dict[str, float] = {"pre_llm": 0.5, "in_llm": 0.5, "kv": 0.75}
NEW_TOKENS = 4
STAGES = ("frames", "encoder", "pre_llm", "in_llm", "kv")
# what a method gets where its own default is meant for long prompts
_SMALL: dict[str, Any] = {"window": 4, "protect_text": False, "fps": 1}
_TABLES: dict[str, Sequence[InLLMRow | EncoderRow]] = {"in_llm": IN_LLM_ROWS, "encoder": ENCODER_ROWS}
# of a store: what makes it store something of a short prompt, and what leaves everything as it came
_STORES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cskv": ({"density": 0.25, "exact_last": 2}, {"density": 1.0}),
    "fourier_attention": (
        {"states": 4, "room": 4, "exact_first": 1, "exact_last": 2},
        {"states": None},
    ),
    "kivi": ({"group": 4, "exact_last": 4}, {"bits": 16}),
    "mustafar": ({"exact_last": 2}, {"sparsity": 0.0}),
}
# tokens that were passed over may come back, so that their entries are held
_RETURNING = ("dycoke",)
# takes the user's own times; nothing about the family
_NOT_A_METHOD = {("frames", "timestamps")}


@dataclass(frozen=True)
class Cell:
    """A method, as a recipe that acts in a model of four layers."""

    info: MethodInfo

    @property
    def id(self) -> str:
        """The name pytest shows, and the key of the record."""
        return f"{self.info.stage}-{self.info.name}"

    @property
    def recipe(self) -> Recipe:
        """The method alone, with options that suit a short prompt."""
        return Recipe(self.id, {self.info.stage: Choice(self.info.name, self._options())})

    @property
    def keeping_all(self) -> tuple[Recipe, dict[str, float]]:
        """The method when it changes nothing, and the budget that goes with it."""
        if not self.info.stacks:
            return self.recipe, {"keep_ratio": 1.0}
        return Recipe(self.id, {self.info.stage: Choice(self.info.name, _STORES[self.info.name][1])}), {}

    @property
    def budget(self) -> dict[str, float]:
        """A share that leaves room for what methods protect of a short prompt."""
        ratio = KEEP_RATIOS.get(self.info.stage)
        return {} if ratio is None or self.info.stacks else {"keep_ratio": ratio}

    def _options(self) -> dict[str, Any]:
        if self.info.stage in _TABLES:
            rows = [row for row in _TABLES[self.info.stage] if row.name == self.info.name]
            return dict(rows[0].options) if rows else {}
        if self.info.stacks:
            return _STORES[self.info.name][0]
        cls: Any = self.info.load()
        names = {field.name for field in dataclasses.fields(cls)}
        return {name: value for name, value in _SMALL.items() if name in names}


CELLS = [
    Cell(info)
    for info in list_methods()
    if info.stage in STAGES and (info.stage, info.name) not in _NOT_A_METHOD
]


def made_clip(frames: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(frames, 40, 48, 3) noise in which a half of every picture stays the same."""
    generator = np.random.default_rng(0)
    clip = generator.integers(0, 256, (frames, 40, 48, 3), dtype=np.uint8)
    clip[:, :20] = clip[0, :20]
    return clip


@contextmanager
def watched_logits(vlm: VideoLLM) -> Iterator[list[torch.Tensor]]:
    """Collects the (1, 1, vocabulary) logits of every step."""
    found: list[torch.Tensor] = []
    head = vlm.family.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: found.append(out.detach().clone()))
    try:
        yield found
    finally:
        handle.remove()


def ask(vlm: VideoLLM, video: Any, recipe: Recipe | None, **given: Any) -> tuple[Answer, list[torch.Tensor]]:
    """One answer with its logits."""
    with watched_logits(vlm) as logits:
        answer: Answer = vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=NEW_TOKENS, **given)
    return answer, logits


def refusal(vlm: VideoLLM, video: Any, cell: Cell) -> str | None:
    """Why the family cannot run the method; None when it ran and kept less than everything."""
    stage = cell.info.stage
    try:
        less, logits = ask(vlm, video, cell.recipe, **cell.budget)
    except (UnsupportedModelError, SignalError) as error:
        return str(error).replace(vlm.family.checkpoint.name, vlm.family.model_type)
    full, stock = ask(vlm, video, None)
    assert all(bool(row.isfinite().all()) for row in logits)
    if stage == "pre_llm" and cell.info.name != "none":
        assert 0 < less.stats.tokens_kept < full.stats.tokens_kept == full.stats.tokens_in
    elif cell.info.name in _RETURNING:
        assert any(not torch.equal(one, other) for one, other in zip(logits, stock, strict=False))
    elif stage in ("in_llm", "kv"):
        assert 0 < less.stats.kv_bytes < full.stats.kv_bytes
    elif stage == "encoder":
        assert 0 < less.stats.tower_share < 1
    return None
