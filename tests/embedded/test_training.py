"""Training: packing equals single prompts, drops keep what they say, the loss falls, a run resumes."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from streamprune.embedded.train.__main__ import parse
from streamprune.embedded.train.architecture import TOKENS_PER_FRAME, build_model
from streamprune.embedded.train.dropping import draw_keep, draw_tokens
from streamprune.embedded.train.language import answer_logits, language_loss
from streamprune.embedded.train.loop import Run, Stage, Student, log_entries, train
from streamprune.embedded.train.optimiser import learning_rate
from streamprune.embedded.train.packing import clip_positions, encode, pack
from streamprune.embedded.train.progress import LogBar
from streamprune.embedded.train.samples import Diet, memory_shaped, plain
from streamprune.embedded.train.stages import curriculum
from streamprune.embedded.train.tokenizer import END, START, VIDEO
from streamprune.embedded.train.tower import patch_features, pixels, project


@pytest.fixture
def sharp_model() -> LlavaOnevisionForConditionalGeneration:
    """Random weights made large, so that a wrong position or mask shows in the logits."""
    torch.manual_seed(3)
    model = build_model().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "language_model.layers" in name:
                parameter.mul_(4.0)
    return model


def test_packed_questions_get_the_logits_of_stock_prompts(
    sharp_model: LlavaOnevisionForConditionalGeneration,
) -> None:
    sample = plain(8, Diet(2, questions=4))
    images = pixels(sample.images)
    with torch.no_grad():
        tokens = project(sharp_model, patch_features(sharp_model, images)).reshape(1, -1, 192)
        places = clip_positions(sample.slots, np.arange(72), False)[None]
        packed = pack([sample.questions], places)
        logits, _ = answer_logits(sharp_model, tokens, packed, places)
        start = 0
        for question in sample.questions:
            answer = [*encode(question.answer), END]
            prompt = [
                START,
                encode("user")[0],
                *[VIDEO] * 73,
                *encode(question.text),
                END,
                START,
                *encode("assistant"),
            ]
            row = torch.tensor([prompt + answer[:-1]])
            stock = sharp_model(input_ids=row, pixel_values_videos=images[None]).logits[0, len(prompt) - 1 :]
            ours = logits[start : start + len(answer)]
            assert stock.std() > 0.05
            torch.testing.assert_close(ours, stock, atol=2e-4, rtol=1e-3)
            start += len(answer)


def test_block_attention_equals_the_stock_one(sharp_model: LlavaOnevisionForConditionalGeneration) -> None:
    from streamprune.embedded.train.attention import register

    sample = plain(5, Diet(5, questions=6))
    places = clip_positions(sample.slots, np.arange(180), False)[None]
    packed = pack([sample.questions], places)
    visual = torch.randn(1, 180, 192, generator=torch.Generator().manual_seed(0))
    results: list[tuple[Tensor, Tensor]] = []
    for name in ("eager", register()):
        sharp_model.model.language_model.set_attn_implementation(name)
        sharp_model.zero_grad()
        logits, targets = answer_logits(sharp_model, visual, packed, places)
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, targets))
        weight = sharp_model.model.language_model.layers[0].self_attn.k_proj.weight
        assert weight.grad is not None
        results.append((logits.detach(), weight.grad.clone()))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-3)


def test_drops_keep_the_asked_number_and_favour_objects_about_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    sample = plain(1, Diet(16))
    coverage = sample.coverage.max(0)
    base = float((coverage > 0.2).mean())
    shares = []
    for _ in range(300):
        keep = draw_keep(rng, coverage.size, 0.65)
        chosen = draw_tokens(rng, coverage, keep)
        assert len(chosen) == keep == len(set(chosen.tolist()))
        assert (np.diff(chosen) > 0).all()
        if keep < coverage.size // 3:
            shares.append(float((coverage.reshape(-1)[chosen] > 0.2).mean()))
    assert 0.3 < np.mean(np.array(shares) > 1.7 * base) < 0.7


def test_memory_shaped_samples_show_old_and_recent_frames_with_clipped_gaps() -> None:
    diet = Diet(16, 8)
    for seed in range(20):
        sample = memory_shaped(seed, diet)
        steps, slots = np.diff(sample.shown), np.diff(sample.slots)
        assert len(sample.shown) == len(sample.slots) == 16
        assert sample.shown[-1] == sample.clip.num_frames - 1
        assert (steps >= slots).all()
        assert slots.min() >= 1
        assert slots.max() <= 4
        for question in sample.questions:
            assert question.type not in ("when", "count")
            assert all(set(range(a, b)) & set(sample.shown) for _, a, b in question.spans)


def test_learning_rate_rises_holds_and_falls() -> None:
    rates = [learning_rate(step, 200, 1.0, 0.1) for step in range(200)]
    assert rates[0] < 0.1
    assert rates[40] == rates[90] == 1.0
    assert rates[199] < 0.12
    assert all(a >= b for a, b in pairwise(rates[90:]))


def _tiny(steps: int) -> list[Stage]:
    def loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
        return language_loss(student, step, seed, count, Diet(1, 3, drop_share=0.5), frozen=False)

    return [Stage("tiny", steps, 4, 2e-3, 1e-4, lambda name: True, loss)]


def test_loss_falls_in_a_few_steps(tmp_path: Path) -> None:
    tower = curriculum()[0]
    short = Stage("tower", 45, 12, tower.peak, tower.floor, tower.trains, tower.loss)
    train(Run(tmp_path, 0, 1), [short])
    losses = [entry["dense"] for entry in log_entries(tmp_path)]
    assert losses[-1] < 0.75 * 7.5
    assert losses[-1] < losses[0]


def test_a_stopped_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = train(Run(tmp_path / "whole", 0, 1), _tiny(2) + _tiny(2)).state_dict()
    train(Run(tmp_path / "broken", 0, 1), _tiny(2))
    resumed = Run(tmp_path / "broken", 0, 1)
    rest = train(resumed, _tiny(2) + _tiny(2)).state_dict()
    assert resumed.samples == 16
    for name, value in whole.items():
        assert torch.equal(value, rest[name]), name


def test_curriculum_trains_sixteen_frames_with_drops_and_memory() -> None:
    names = [stage.name for stage in curriculum()]
    assert names[0] == "tower"
    assert sum(name.startswith("16 frames") for name in names) >= 1
    assert TOKENS_PER_FRAME == 36


def test_command_line_asks_for_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_progress_follows_the_log(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, 1)
    run.log({"stage": "tiny", "step": 20, "loss": 1.5, "accuracy": 0.25})
    run.log({"stage": "tiny", "step": 40, "loss": 0.5})
    with LogBar(tmp_path, _tiny(50), Console(file=io.StringIO())) as bar:
        assert bar.update() == {"tiny": "loss 0.500  held-out 0.250"}
