"""Signals computed after encoding, and those of each question, through ask()."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import streamprune as sp
from streamprune import errors
from streamprune.metrics.flops import DecoderShape
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.recipe import Choice, Recipe
from streamprune.report.tables import stats_table
from streamprune.tokens import Reduction, VisualTokens
from tests.pipelines.test_offline import OTHER, QUESTION, count_calls

Video = NDArray[np.uint8]


@pytest.fixture(scope="module")
def video() -> Video:
    return np.random.default_rng(1).integers(0, 256, (12, 36, 44, 3), dtype=np.uint8)


class MostAttended:
    """Keeps the eight tokens that receive most attention, where the keys are finite."""

    needs: ClassVar[tuple[str, ...]] = ("received_attention", "keys")

    def reduce(self, tokens: VisualTokens) -> Reduction:
        grid = tokens.grid
        received = tokens.signal("received_attention", (grid.frames, grid.rows, grid.cols))
        tokens.signal("keys", (grid.frames, grid.rows, grid.cols, 8))
        return Reduction.select(tokens, received.flatten().topk(8).indices)


class FrameOfTheQuestion:
    """Keeps the frame that the language model looks at most."""

    needs: ClassVar[tuple[str, ...]] = ("query_frame_attention", "text_embeds")

    def reduce(self, tokens: VisualTokens) -> Reduction:
        tokens.signal("text_embeds", (None, 48))
        frame = int(tokens.signal("query_frame_attention", (tokens.grid.frames,)).argmin())
        return Reduction.select(tokens, torch.arange(16) + 16 * frame)


@pytest.fixture(autouse=True)
def methods() -> Iterator[None]:
    sp.register_method(MostAttended, "most_attended_for_tests")
    sp.register_method(FrameOfTheQuestion, "frame_for_tests")
    yield
    sp.unregister_method("most_attended_for_tests")
    sp.unregister_method("frame_for_tests")


def test_encode_computes_little_and_more_when_a_method_needs_it(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = vlm.encode(video, num_frames=12)
    assert set(encoded.tokens.signals) == {"saliency", "frame_features"}
    runs = count_calls(monkeypatch, vlm.family, "encode")
    plain = vlm.ask(encoded, QUESTION, max_new_tokens=4)
    assert runs == []
    first = vlm.ask(encoded, QUESTION, recipe="most_attended_for_tests", max_new_tokens=6)
    again = vlm.ask(encoded, QUESTION, recipe="most_attended_for_tests", max_new_tokens=6)
    assert len(runs) == 2  # two batches of eight and four frames, once for both signals
    direct = vlm.ask(video, QUESTION, recipe="most_attended_for_tests", num_frames=12, max_new_tokens=6)
    assert first.text == again.text == direct.text
    # what the second look at the frames took is told to those who needed it
    assert plain.stats.encode_ms == encoded.encode_ms
    assert first.stats.encode_ms == again.stats.encode_ms > encoded.encode_ms


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_late_signals_equal_those_computed_on_the_way(
    vlm: VideoLLM, video: Video, dtype: str, small_folder: Path
) -> None:
    vlm = vlm if dtype == "float32" else load(small_folder, dtype=dtype)
    names = vlm.family.available_signals()
    late = vlm.encode(video, num_frames=12).tokens.signals
    early = vlm.encode(video, num_frames=12, signals=names).tokens.signals
    assert set(early) == set(names)
    for name in names:
        assert torch.equal(late[name], early[name]), name


def test_pictures_are_compared_across_batches(vlm: VideoLLM, video: Video) -> None:
    names = ["pixel_change", "pixel_entropy"]
    whole = vlm.encode(video, num_frames=12, signals=names, frames_per_batch=12).tokens.signals
    parts = vlm.encode(video, num_frames=12, signals=names, frames_per_batch=5).tokens.signals
    for name in names:
        assert torch.equal(parts[name], whole[name])
    assert (whole["pixel_change"][1:] > 0).all()
    evs: dict[str, Any] = {"compare": "pixels", "recipe": "evs", "keep_ratio": 0.5, "num_frames": 12}
    assert vlm.ask(video, QUESTION, max_new_tokens=4, **evs).stats.tokens_kept == 96


def test_with_a_method_inside_the_tower_only_what_it_puts_out_can_be_read_later(
    vlm: VideoLLM, video: Video
) -> None:
    recipe = Recipe("merged", {"encoder": Choice("tome")})
    encoded = vlm.encode(video, recipe=recipe, num_frames=12)
    names = ["encoder_features", "pixel_change"]
    early = vlm.encode(video, recipe=recipe, num_frames=12, signals=names)
    assert encoded.tower_share < 1
    for name in names:
        assert torch.equal(encoded.tokens.signals[name], early.tokens.signals[name])
    plain = vlm.encode(video, num_frames=12, signals=names).tokens.signals
    assert not torch.equal(plain["encoder_features"], early.tokens.signals["encoder_features"])
    with pytest.raises(
        errors.SignalError, match=r"read inside the vision tower.*encoder stage\. Meth"
    ) as caught:
        vlm.ask(encoded, QUESTION, recipe="most_attended_for_tests")
    works = str(caught.value).partition("Methods that work")[2]
    assert "fastvid" in works
    assert "most_attended_for_tests" not in works


def test_signals_by_name_are_all_there_will_be(vlm: VideoLLM, video: Video) -> None:
    encoded = vlm.encode(video, num_frames=4, signals=["saliency"])
    with pytest.raises(errors.SignalError, match=r"encode it again with signals=\('received_attention', 'k"):
        vlm.ask(encoded, QUESTION, recipe="most_attended_for_tests")
    for name in ("text_embeds", "query_frame_attention"):
        with pytest.raises(errors.SignalError, match=f"'{name}' belongs to a question.*leave it out"):
            vlm.encode(video, signals=[name])


def test_a_method_that_reads_the_question_decides_for_each(vlm: VideoLLM, video: Video) -> None:
    settings: dict[str, Any] = {"recipe": "frame_for_tests", "num_frames": 12, "max_new_tokens": 8}
    apart = [vlm.ask(video, one, **settings) for one in (QUESTION, OTHER, QUESTION)]
    together = vlm.ask(video, [QUESTION, OTHER, QUESTION], **settings)
    assert [one.text for one in together] == [one.text for one in apart]
    encoded = vlm.encode(video, num_frames=12)
    del settings["num_frames"]
    assert [one.text for one in vlm.ask(encoded, [QUESTION, OTHER, QUESTION], **settings)] == [
        one.text for one in apart
    ]
    with vlm.ask(encoded, OTHER, stream=True, **settings) as stream:
        assert "".join(stream) == apart[1].text


def test_questions_get_different_frames(vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    real = FrameOfTheQuestion.reduce

    def watched(self: FrameOfTheQuestion, tokens: VisualTokens) -> Reduction:
        reduction = real(self, tokens)
        kept.append(int(reduction.index[0]))
        return reduction

    monkeypatch.setattr(FrameOfTheQuestion, "reduce", watched)
    questions = [QUESTION, OTHER, "red square", "where is left moving right"]
    vlm.ask(video, questions, recipe="frame_for_tests", num_frames=12, max_new_tokens=2)
    assert len(kept) == 4
    assert len(set(kept)) > 1


def test_reading_a_prompt_to_choose_tokens_is_counted(vlm: VideoLLM, video: Video) -> None:
    answer = vlm.ask(video, QUESTION, recipe="frame_for_tests", num_frames=12, max_new_tokens=2)
    shape = DecoderShape.from_config(vlm.family.text_config)
    read = vlm.family.fixed_tokens(QUESTION) + 12 * 16
    assert answer.stats.reduce_flops == shape.prefill_flops(read) > answer.stats.prefill_flops
    plain = vlm.ask(video, QUESTION, recipe="stride", keep_ratio=0.5, num_frames=12, max_new_tokens=2)
    assert plain.stats.reduce_flops == 0
    labels = [list(stats_table([("", one.stats.to_dict())]).columns[0].cells) for one in (answer, plain)]
    assert "LLM FLOPs to choose" in labels[0]
    assert "LLM FLOPs to choose" not in labels[1]


def test_a_model_without_a_pooling_head_runs_what_the_tower_can_give(
    bare_vlm: VideoLLM, video: Video
) -> None:
    settings: dict[str, Any] = {"num_frames": 2, "max_new_tokens": 4}
    answer = bare_vlm.ask(video, QUESTION, recipe="most_attended_for_tests", **settings)
    assert answer.stats.tokens_kept == 8
    assert bare_vlm.ask(video, QUESTION, recipe="frame_for_tests", **settings).stats.tokens_kept == 16
    encoded = bare_vlm.encode(video, num_frames=2)
    assert list(encoded.tokens.signals) == []
    works = "Methods that work.*most_attended_for_tests, frame_for_tests"
    with pytest.raises(errors.SignalError, match=f"pooling_head=PATH.*{works}") as caught:
        bare_vlm.ask(encoded, QUESTION, recipe="fastvid", keep_ratio=0.5)
    assert "fastvid" not in str(caught.value).partition("Methods that work")[2]
