"""The kv stage on families with positions along three axes and normalised queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.errors import UnsupportedModelError
from streamprune.kv.h2o import H2O
from streamprune.kv.kvzip import KVzip
from streamprune.kv.mustafar import Mustafar
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.view import LayerView
from streamprune.pipelines.answer_cache import prompt_labels
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.recipe import Choice, Recipe
from streamprune.tokens import Reduction
from tests.models.small_qwen import FAMILIES, save_small_qwen

QUESTION = "what colour is the circle ?"


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = save_small_qwen(tmp_path_factory.mktemp(request.param), request.param)
    return load(folder, attn_implementation="eager")


@pytest.fixture(scope="module")
def video() -> Any:
    return np.random.default_rng(5).integers(0, 256, (6, 36, 60, 3), dtype=np.uint8)


def _recipe(method: str, **options: Any) -> Recipe:
    return Recipe(stages={"kv": Choice(method, options)})


@pytest.mark.parametrize("method", ["h2o", "snapkv", "infinipot_v"])
def test_answers(vlm: VideoLLM, video: Any, method: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=5)
    whole = vlm.ask(video, QUESTION, recipe=_recipe(method, keep_ratio=1.0), max_new_tokens=5)
    roomy = vlm.ask(video, QUESTION, recipe=_recipe(method, keep_tokens=1000), max_new_tokens=5)
    assert whole.text == roomy.text == stock.text
    assert stock.stats.new_tokens >= 3
    half = vlm.ask(video, QUESTION, recipe=_recipe(method, keep_ratio=0.6), max_new_tokens=5)
    # what layers without keys remember stays as large as it is
    every = vlm.family.text_config.num_hidden_layers
    reduced = KeptCache.of(vlm.family.model, StreamingLLM()).depth
    assert 0.5 < half.stats.kv_bytes / stock.stats.kv_bytes < (0.8 if reduced == every else 1)


@dataclass(frozen=True, kw_only=True)
class _Remembering(H2O):
    """Remembers what each layer's queries attended to."""

    rows: list[torch.Tensor]

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        self.rows.append(view.attention(view.new).flatten(1, 2))
        return super().observe(view)


def test_queries_give_the_attention_of_the_model(vlm: VideoLLM, video: Any) -> None:
    model, expected = vlm.family.model, []
    tokens = vlm.encode(video, signals=()).tokens
    prompt = vlm.family.prompt(QUESTION, Reduction.identity(tokens), pts_seconds=tokens.pts_seconds)
    policy = _Remembering(keep_tokens=10, rows=[])
    cache = KeptCache.of(model, policy, labels=prompt_labels(prompt, Reduction.identity(tokens)))

    def remember(module: Any, args: Any, out: Any) -> None:
        expected.append(out[1])

    layers = [layer for layer in model.get_decoder().layers if hasattr(layer, "self_attn")]
    hooks = [layer.self_attn.register_forward_hook(remember) for layer in layers]
    with torch.no_grad(), cache.watch(model):
        model(**prompt.model_inputs(), past_key_values=cache)
    for hook in hooks:
        hook.remove()
    assert len(policy.rows) == len(expected) == cache.depth > 0
    for ours, rows in zip(policy.rows, expected, strict=True):
        assert (ours - rows).abs().max() < 1e-5
        assert rows.amax(-1)[..., 10:].mean() > 2 / len(prompt), (
            "attention that looks at nothing proves nothing"
        )


def test_keys_are_stored_before_rotation_along_three_axes(vlm: VideoLLM, video: Any) -> None:
    model, made = vlm.family.model, []
    tokens = vlm.encode(video, signals=()).tokens
    prompt = vlm.family.prompt(QUESTION, Reduction.identity(tokens), pts_seconds=tokens.pts_seconds)
    # so small a share drops no element
    cache = KeptCache.of(model, Mustafar(sparsity=0.01, exact_last=4, unrotated=True))
    plain = KeptCache.of(model, StreamingLLM())
    with torch.no_grad(), cache.watch(model):
        model(**prompt.model_inputs(), past_key_values=cache)
    with torch.no_grad():
        model(**prompt.model_inputs(), past_key_values=plain)
    for (_, ours), (_, stock) in zip(cache.kept_layers(), plain.kept_layers(), strict=True):
        packed = ours._shelves["keys"].packed
        assert packed is not None
        made.append((packed.load() - stock.keys[:, :, :-4]).abs().max() > 1e-2)
        assert (ours.keys - stock.keys).abs().max() < 1e-5
        assert {"stored_at", "stored_at_1", "stored_at_2"} <= ours.entries.keys()
    assert all(made), "keys that were never turned prove nothing"


def test_a_video_is_read_again_behind_the_prompt_at_the_distances_it_has(vlm: VideoLLM, video: Any) -> None:
    model = vlm.family.model
    tokens = vlm.encode(video, signals=()).tokens
    whole = Reduction.identity(tokens)
    prompt = vlm.family.prompt(QUESTION, whole, pts_seconds=tokens.pts_seconds)
    labels = prompt_labels(prompt, whole)
    calls: list[dict[str, Any]] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    policy = KVzip(keep_tokens=len(prompt) - 8, instruction=[9, 10, 11])
    cache = KeptCache.of(model, policy, labels=labels)
    with torch.no_grad(), cache.watch(model):
        logits = model(**prompt.model_inputs(), past_key_values=cache).logits
    hook.remove()
    first, again = calls
    visual = (labels.segments[0] >= 0).nonzero()[:, 0]
    assert torch.equal(again["inputs_embeds"][:, 3:], first["inputs_embeds"][:, visual])
    before, after = first["position_ids"], again["position_ids"]
    if len(before) == 4:
        assert after[0, 0].tolist() == list(range(len(prompt), len(prompt) + 3 + len(visual)))
        before, after = before[1:], after[1:]
    shift = after[..., 3:] - before[..., visual]
    assert (shift == shift.flatten()[0]).all()
    assert after.min() == after[0, 0, 0] == before.max() + 1
    assert after[..., 3:].min() == after[..., 2].max() + 1
    if first.get("deepstack_visual_embeds") is not None:
        assert again["visual_pos_masks"].tolist() == [[False] * 3 + [True] * len(visual)]
        for ours, theirs in zip(
            again["deepstack_visual_embeds"], first["deepstack_visual_embeds"], strict=True
        ):
            assert torch.equal(ours, theirs)
    with torch.no_grad():
        stock = model(**prompt.model_inputs()).logits
    assert torch.equal(logits, stock), "reading again changes nothing that was said"
    assert {layer.held for layer in cache.report()} == {len(prompt) - 8}


def test_positions_along_three_axes_are_not_counted_anew(vlm: VideoLLM) -> None:
    cache = KeptCache.of(vlm.family.model, StreamingLLM(keep_tokens=9), positions="compact")
    with (
        pytest.raises(UnsupportedModelError, match="needs one axis of positions"),
        cache.watch(vlm.family.model),
    ):
        pytest.fail("let in")
