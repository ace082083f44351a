"""Every in-LLM method inside the language models of all families: exact, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.returning import ReturningMethod
from streamprune.models.attach import attach_to_prompt
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.tokens import Reduction
from tests.in_llm.small_decoder import Watched, masked
from tests.in_llm.table import ROWS, Row
from tests.models.test_families import SAVE

# the shallowest of the small models has three layers
_DEPTH = 3


def _rows() -> list[Row]:
    """One row a method, if there is one such that a masking of keys equals it."""
    found: dict[str, Row] = {}
    for row in ROWS:
        fits = max(row.build(keep_ratio=0.25).cuts(_DEPTH)) < _DEPTH
        if fits and (row.name not in found or (found[row.name].merges and not row.merges)):
            found[row.name] = row
    return list(found.values())


rows = pytest.mark.parametrize("row", _rows(), ids=lambda row: row.id)


@pytest.fixture(scope="module", params=sorted(SAVE))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


def reduction_of(family: VideoFamily) -> Reduction:
    rng = np.random.default_rng(2)
    pixels = family.preprocess([rng.integers(0, 256, (30, 50, 3), dtype=np.uint8) for _ in range(4)])
    tokens = EncodedFrames.join([family.encode(pixels)]).tokens({})
    step = max(2, -(-len(tokens) // 40))
    return Reduction.select(tokens, torch.arange(0, len(tokens), step))


@pytest.fixture(scope="module")
def reduction(family: VideoFamily) -> Reduction:
    return reduction_of(family)


def prompt_of(family: VideoFamily, reduction: Reduction) -> Any:
    times = tuple(float(number) for number in range(reduction.grid.frames))
    return family.prompt("what colour is the circle ?", reduction, pts_seconds=times)


def answer(family: VideoFamily, prompt: Any) -> list[torch.Tensor]:
    """Logits of the last row, and of two words that follow in one more call."""
    model = family.model
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # the stock model remembers the last prompt
    with torch.no_grad():
        out = model(**prompt.model_inputs())
        ids = torch.tensor([[5, 6]])
        places = prompt.position_ids[..., -1:] + torch.arange(1, 3)
        again = model(input_ids=ids, position_ids=places, past_key_values=out.past_key_values)
    return [out.logits[0, -1], again.logits[0, -2], again.logits[0, -1]]


@pytest.fixture(scope="module")
def stock(family: VideoFamily, reduction: Reduction) -> list[torch.Tensor]:
    return answer(family, prompt_of(family, reduction))


@contextmanager
def accepted(family: VideoFamily, method: InLLMMethod) -> Iterator[bool]:
    """Whether the family's layers can hold what ``method`` leaves; a refusal has to say why not."""
    config = family.model.get_decoder().config
    depth = len(family.model.get_decoder().layers)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * depth
    first = method.cuts(depth)[0]
    attends = [kind == "full_attention" for kind in kinds]
    if all(attends[max(0, first - 1) :]):
        yield True
        return
    said = r"is of the kind '\w+', and tokens can only be dropped below layers of full attention"
    if all(attends[first:]):
        said = "an in_llm method reads input_layernorm and self_attn's"  # of the layer below
    with pytest.raises(UnsupportedModelError, match=said):
        yield False


@rows
def test_keeping_everything_changes_no_bit(
    family: VideoFamily, reduction: Reduction, stock: list[torch.Tensor], row: Row
) -> None:
    prompt, method = prompt_of(family, reduction), row.build(keep_ratio=1.0)
    with accepted(family, method), attach_to_prompt(family, method, prompt, reduction) as counted:
        inside = answer(family, prompt)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(inside, stock, strict=True))
        assert counted.tokens(len(prompt)) is None


@rows
def test_dropping_equals_masking(
    family: VideoFamily, reduction: Reduction, stock: list[torch.Tensor], row: Row
) -> None:
    prompt, method = prompt_of(family, reduction), row.build(keep_ratio=0.25)
    watched = Watched(method=method)
    acting = method if row.returns else watched
    with accepted(family, method) as runs, attach_to_prompt(family, acting, prompt, reduction) as counted:
        got = answer(family, prompt)
    if not runs:
        return
    if row.decodes:
        assert torch.equal(got[0], stock[0]), "of the prompt, everything goes up"
        return
    assert not torch.equal(got[0], stock[0])
    lengths = counted.tokens(len(prompt))
    assert lengths is not None
    assert lengths[-1] < len(prompt) - len(reduction) // 2
    if row.merges or row.returns:
        return
    cuts = watched.cuts_of_rows
    gone = torch.cat([dropped for _, dropped in cuts])
    assert torch.isin(gone, prompt.kept_columns).all()
    assert lengths[-1] == len(prompt) - len(gone)
    with masked(family.model, [cuts]):
        expected = answer(family, prompt)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    if isinstance(method, ReturningMethod):
        # as it acts by itself, tokens come back with the words that follow
        with attach_to_prompt(family, method, prompt, reduction):
            alone = answer(family, prompt)
        torch.testing.assert_close(alone[0], expected[0], atol=1e-5, rtol=0)


@dataclass(frozen=True, kw_only=True)
class ThinsOut(InLLMMethod):
    """Every fourth visual token goes on into layer 0."""

    first_cut = 0

    def cuts(self, depth: int) -> tuple[int, ...]:
        return (0,)

    def decide(self, view: PromptView) -> Decision:
        return Decision(view.kept_with_text(torch.arange(0, len(view.visual), 4)))


def test_tokens_dropped_before_layer_0_equal_masked_ones(family: VideoFamily, reduction: Reduction) -> None:
    prompt = prompt_of(family, reduction)
    watched = Watched(method=ThinsOut())
    with accepted(family, watched) as runs, attach_to_prompt(family, watched, prompt, reduction):
        got = answer(family, prompt)
    if not runs:
        return
    with masked(family.model, [watched.cuts_of_rows]):
        expected = answer(family, prompt)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(SAVE))
def test_keeping_everything_in_eager_half_precision(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = SAVE[name](tmp_path_factory.mktemp(f"half_{name}"))
    family = load_model(folder, attn_implementation="eager", dtype="bfloat16")
    reduction = reduction_of(family)
    prompt = prompt_of(family, reduction)
    before = answer(family, prompt)
    for row in _rows():
        if row.name not in ("fastv", "dycoke", "lazyllm", "framefusion"):
            continue
        method = row.build(keep_ratio=1.0)
        with accepted(family, method), attach_to_prompt(family, method, prompt, reduction):
            inside = answer(family, prompt)
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(inside, before, strict=True))
