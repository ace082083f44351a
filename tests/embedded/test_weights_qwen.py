"""The second shipped model: loaded like any other, right about held-out clips, in need of its positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, GenerationConfig

import streamprune as sp
from streamprune.embedded.evaluate.scoring import (
    Examinee,
    Seen,
    full_marks,
    generated,
    load,
    look,
    reduced_marks,
)
from streamprune.embedded.evaluate.worlds import world
from streamprune.embedded.train.packing import encode
from streamprune.embedded.train.tokenizer import END, VIDEO
from streamprune.embedded.train.tower import pixels
from streamprune.embedded.world import Clip, clip
from streamprune.models.checkpoint_files import embedded_folder
from streamprune.pipelines.evaluation import Evaluation
from streamprune.pipelines.evaluation_contenders import KEY, Contender, read_contenders
from streamprune.pipelines.evaluation_outcome import Unwritten
from streamprune.pipelines.evaluation_summary import summary
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import open_source

WEIGHTS = embedded_folder("embedded-qwen")
_CLIPS = 16


@pytest.fixture(scope="module")
def examinee() -> Examinee:
    return load(WEIGHTS)


@pytest.fixture(scope="module")
def seen(examinee: Examinee) -> list[Seen]:
    return [look(examinee, clip(seed, 16, "eval", questions=10)) for seed in range(5000, 5000 + _CLIPS)]


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded-qwen")


def _right(marks: list[list[bool]]) -> float:
    return float(np.mean([right for found in marks for right in found]))


def test_folder_is_small_and_holds_no_pickle() -> None:
    files = {path.name: path.stat().st_size for path in WEIGHTS.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert sum(files.values()) <= 6_000_000
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    with safe_open(WEIGHTS / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_stock_classes_load_it_without_a_missing_key() -> None:
    model, info = AutoModelForImageTextToText.from_pretrained(WEIGHTS, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert GenerationConfig.from_pretrained(WEIGHTS).eos_token_id == END
    assert all(torch.isfinite(p).all() for p in model.parameters())
    vision, text = model.config.vision_config, model.config.text_config
    assert vision.window_size < 96
    assert 0 < len(vision.fullatt_block_indexes) < vision.depth
    assert len(text.rope_parameters["mrope_section"]) == 3


def test_right_with_all_tokens(examinee: Examinee, seen: list[Seen]) -> None:
    assert _right([full_marks(examinee, s) for s in seen]) >= 0.92


def test_stock_generate_gives_the_answers(examinee: Examinee) -> None:
    made = clip(5100, 16, "eval", questions=8)
    answers = generated(examinee, made)
    assert sum(a == q.answer for a, q in zip(answers, made.questions, strict=True)) >= 7


def test_good_tokens_beat_random_ones(examinee: Examinee, seen: list[Seen]) -> None:
    right = {
        m: _right([reduced_marks(examinee, s, m, 0.1)[0] for s in seen])
        for m in ("random", "oracle", "streamprune")
    }
    assert right["oracle"] >= right["random"] + 0.15
    assert right["streamprune"] >= right["random"] + 0.1


def test_it_is_asked_packed_and_alone(vlm: VideoLLM) -> None:
    questions = world("embedded", 10, 16, vlm.family)
    contenders = [Contender.full(), *read_contenders(["random", "fastv"], [0.25]), questions.oracle(0.25)]
    outcome = Evaluation(vlm, questions, contenders, baselines=False).run(Unwritten(KEY))
    record = summary(outcome)
    rows = {row["recipe"]: row for row in record["rows"]}
    assert record["full"]["tokens_in"] == 288
    assert rows["random"]["tokens_kept"] == 72
    assert rows["random"]["evidence_recall"] < 1 == rows["oracle"]["evidence_recall"]
    assert rows["fastv"]["prefill_flops"] < 0.8
    assert rows["fastv"]["accuracy"] >= 0.7


def _share_right(vlm: VideoLLM, clips: list[Clip], **settings: Any) -> float:
    marks = []
    for one in clips:
        with open_source(one.frames, fps=one.fps) as video:
            answers = vlm.ask(
                video, [q.text for q in one.questions], num_frames=16, max_new_tokens=8, **settings
            )
        marks.append([a.text == q.answer for a, q in zip(answers, one.questions, strict=True)])
    return _right(marks)


def test_recipes_keep_its_answers_and_positions_matter(vlm: VideoLLM) -> None:
    clips = [clip(seed, 16, "eval", questions=6) for seed in range(9_000, 9_006)]
    full = _share_right(vlm, clips)
    assert full >= 0.9
    assert _share_right(vlm, clips, recipe="streamprune", keep_ratio=0.25) >= 0.9 * full
    kept = {
        rule: _share_right(vlm, clips, recipe="random", keep_ratio=0.5, positions=rule)
        for rule in ("keep", "renumber")
    }
    assert kept["keep"] >= kept["renumber"] + 0.15


def test_it_repeats_the_stock_route(vlm: VideoLLM) -> None:
    """Fed pixels, the stock model gives the same logits to the last bit when all frames go in one batch."""
    made = clip(9_000, 16, "eval", questions=1)
    with open_source(made.frames, fps=made.fps) as video:
        encoded = vlm.encode(video, num_frames=16, frames_per_batch=16)
    prompt = vlm.family.prompt(
        made.questions[0].text, sp.Reduction.identity(encoded.tokens), pts_seconds=encoded.pts_seconds
    )
    examinee = load(WEIGHTS)
    frame = examinee.architecture.frame
    text = [*frame.opening, VIDEO, *frame.closing, *encode(made.questions[0].text), END]
    inputs = examinee.architecture.stock_inputs(
        [*text, frame.opening[0], *encode("assistant")], pixels(made.frames)
    )
    assert torch.equal(inputs["input_ids"], prompt.input_ids)
    with torch.no_grad():
        ours = vlm.family.model(**prompt.model_inputs()).logits
        stock = examinee.model(**inputs).logits
    assert torch.equal(ours, stock)


def test_recorded_results_reach_the_figures() -> None:
    """The published figures belong to these weights' world: targets hold in the recorded run."""
    recorded = Path(__file__).resolve().parents[2] / "demos" / "results" / "embedded_qwen_eval.json"
    report = json.loads(recorded.read_text(encoding="utf-8"))
    assert report["full"]["count"] >= 500
    assert report["full"]["accuracy"] >= 0.9
    assert report["blind"]["accuracy"] <= 0.4
    assert report["generate"]["same_verdict"] == report["generate"]["questions"]
