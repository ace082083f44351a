"""Tokens dropped inside the language models of all families, against the same keys masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.fastv import FastV
from streamprune.in_llm.pyramiddrop import PyramidDrop
from streamprune.models.attach import attach_to_prompt
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.tokens import Reduction
from tests.in_llm.small_decoder import Watched, masked
from tests.models.small_llava import save_small_llava
from tests.models.small_qwen import save_small_qwen

MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava_onevision": save_small_llava,
    "qwen2_vl": lambda folder: save_small_qwen(folder, "qwen2_vl"),
    "qwen2_5_vl": lambda folder: save_small_qwen(folder, "qwen2_5_vl"),
    "qwen3_vl": lambda folder: save_small_qwen(folder, "qwen3_vl"),
}


@dataclass(frozen=True, kw_only=True)
class ThinsOut(InLLMMethod):
    """Every fourth visual token goes on into layer 0."""

    first_cut = 0

    def cuts(self, depth: int) -> tuple[int, ...]:
        return (0,)

    def decide(self, view: PromptView) -> Decision:
        return Decision(view.kept_with_text(torch.arange(0, len(view.visual), 4)))


METHODS = [FastV(layer=1, keep_ratio=0.25), PyramidDrop(layers=(1, 2), keep_ratio=0.2), ThinsOut()]


@pytest.fixture(scope="module", params=MAKERS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(MAKERS[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def reduction(family: VideoFamily) -> Reduction:
    rng = np.random.default_rng(2)
    pixels = family.preprocess([rng.integers(0, 256, (30, 50, 3), dtype=np.uint8) for _ in range(4)])
    tokens = EncodedFrames.join([family.encode(pixels)]).tokens({})
    return Reduction.select(tokens, torch.arange(0, len(tokens), 2))


def prompt_of(family: VideoFamily, reduction: Reduction) -> Any:
    times = tuple(float(number) for number in range(reduction.grid.frames))
    return family.prompt("what colour is the circle ?", reduction, pts_seconds=times)


def answer(family: VideoFamily, prompt: Any) -> tuple[torch.Tensor, list[int]]:
    """Logits of the last row, and four tokens."""
    model = family.model
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # the stock model remembers the last prompt
    with torch.no_grad():
        logits = model(**prompt.model_inputs()).logits[0, -1]
    out = model.generate(**prompt.model_inputs(), do_sample=False, max_new_tokens=4)
    return logits, out[0, len(prompt) :].tolist()


def test_keeping_everything_changes_no_bit(family: VideoFamily, reduction: Reduction) -> None:
    prompt = prompt_of(family, reduction)
    logits, tokens = answer(family, prompt)
    with attach_to_prompt(family, FastV(layer=1, keep_ratio=1.0), prompt, reduction):
        inside = answer(family, prompt)
    assert torch.equal(inside[0], logits)
    assert inside[1] == tokens


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_dropping_equals_masking(family: VideoFamily, reduction: Reduction, method: InLLMMethod) -> None:
    prompt = prompt_of(family, reduction)
    watched = Watched(method=method)
    with attach_to_prompt(family, watched, prompt, reduction) as counted:
        logits, tokens = answer(family, prompt)
    cuts = watched.cuts_of_rows[: len(watched.cuts_of_rows) // 2]  # of the first of two passes
    gone = torch.cat([rows for _, rows in cuts])
    assert len(gone) >= 0.7 * len(reduction)
    assert torch.isin(gone, prompt.kept_columns).all()
    lengths = counted.tokens(len(prompt))
    assert lengths is not None
    assert lengths[-1] == len(prompt) - len(gone)
    with masked(family.model, [cuts]):
        expected, expected_tokens = answer(family, prompt)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert tokens == expected_tokens
