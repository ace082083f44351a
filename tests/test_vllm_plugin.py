"""What vLLM is told, without vLLM: counts before the video is seen, masks after, and reasons of refusals."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError, UnsupportedModelError
from streamprune.integrations import vllm_hooks, vllm_plugin
from streamprune.integrations.vllm_positions import (
    PromptMarks,
    VideoSpan,
    place_rows,
    shown_spans,
    whole_prompt,
)
from streamprune.integrations.vllm_pruner import VideoPruner, servable_methods
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import reduce_tokens
from streamprune.registry import register_method, unregister_method
from streamprune.tokens import Reduction, VideoGrid, VisualTokens
from tests.test_cli import failed_with, run

LACKING = servable_methods()
SERVED = [name for name, lacking in LACKING.items() if lacking is None]
REFUSED = {name: lacking for name, lacking in LACKING.items() if lacking is not None}
MERGING = ("aim", "atc", "llava_scissor", "tome")
# one frame, one token a frame, one row, odd sides, and a clip
GRIDS = [(1, 1, 1), (1, 3, 4), (5, 1, 1), (3, 1, 7), (4, 2, 3), (7, 5, 5), (9, 4, 4)]
RATES = (0.0, 0.1, 0.5, 0.75, 0.9, 0.99)


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_plugin.METHOD, raising=False)
    monkeypatch.delenv(vllm_plugin.OPTIONS, raising=False)


def features_of(grid: tuple[int, int, int], channels: int = 8, seed: int = 0) -> torch.Tensor:
    frames, rows, cols = grid
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, rows * cols, channels, generator=generator)
    moved = torch.randn(frames, rows * cols, channels, generator=generator)
    return (still + 0.7 * moved).reshape(-1, channels)


@pytest.mark.parametrize("name", SERVED)
def test_the_mask_keeps_what_the_prompt_was_told(name: str) -> None:
    pruner = VideoPruner(method=name)
    for grid in GRIDS:
        frames, rows, cols = grid
        for rate in RATES:
            announced = pruner.count(rows * cols, frames, rate)
            features = features_of(grid)
            reduction = reduce_tokens(
                features.reshape(*grid, -1), name, keep_ratio=round(1 - rate, 6)
            )  # fails here when 1 - rate is not what was meant
            mask = pruner.mask(features, VideoGrid(*grid), rate)
            assert mask.dtype == torch.bool
            assert int(mask.sum()) == announced == len(reduction), (grid, rate)
            assert mask.nonzero().flatten().tolist() == reduction.index.tolist()
            assert torch.equal(features[mask], reduction.features)
            assert 1 <= announced <= frames * rows * cols


@pytest.mark.parametrize("name", SERVED)
def test_nothing_pruned_is_everything_untouched(name: str) -> None:
    features = features_of((3, 4, 4))
    before = features.clone()
    assert VideoPruner(method=name).mask(features, VideoGrid(3, 4, 4), 0.0).all()
    assert torch.equal(features, before)


@pytest.mark.parametrize("name", SERVED)
def test_only_methods_that_merge_write_and_only_into_what_stays(name: str) -> None:
    features = features_of((4, 4, 4))
    before = features.clone()
    mask = VideoPruner(method=name).mask(features, VideoGrid(4, 4, 4), 0.75)
    assert torch.equal(features, before) == (name not in MERGING)
    assert torch.equal(features[~mask], before[~mask])


@pytest.mark.parametrize("name", ["divprune", "tome"])
def test_rows_of_deeper_layers_share_the_fate_of_their_token_unscored(name: str) -> None:
    grid = VideoGrid(4, 3, 3)
    features = features_of((4, 3, 3))
    deeper = features_of((4, 3, 3), seed=1) * 100
    both = torch.cat([features, deeper], 1)
    pruner = VideoPruner(method=name)
    mask = pruner.mask(both, grid, 0.5, scored_channels=8)
    decided = pruner.reduce(features, grid, 0.5)
    assert mask.nonzero().flatten().tolist() == decided.index.tolist()
    assert torch.equal(both[mask][:, :8], decided.features)
    assert torch.equal(both[mask][:, 8:], decided.apply(deeper))


def test_a_video_of_nan_ends_no_server(caplog: pytest.LogCaptureFixture) -> None:
    features = torch.full((2 * 9, 8), float("nan"))
    features[:9] = float("inf")
    with caplog.at_level(logging.WARNING):
        mask = VideoPruner(method="divprune").mask(features, VideoGrid(2, 3, 3), 0.5)
    assert int(mask.sum()) == 9
    assert "NaN or infinite" in caplog.text


def test_half_precision_stays_half() -> None:
    features = features_of((4, 4, 4)).to(torch.bfloat16)
    assert int(VideoPruner(method="tome").mask(features, VideoGrid(4, 4, 4), 0.5).sum()) == 32
    assert features.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("fastvid", "needs the signals saliency, frame_features"),
        ("streamprune", "needs the signal saliency"),
        ("dytok", "needs the signals query_frame_attention"),
        ("cdpruner", "text_embeds"),
        ("flashvid", "can keep a token twice"),
        ("pool", "depends on a frame's rows and columns"),
        ("vidcom2", "depends on what is in the video"),
        ("sttm", "depends on what is in the video"),
    ],
)
def test_refusals_say_what_is_missing(name: str, lacks: str) -> None:
    with pytest.raises(InvalidValueError, match=lacks) as refused:
        VideoPruner(method=name)
    assert "It can serve: none, random, stride" in str(refused.value)
    assert lacks in REFUSED[name]


def test_every_method_is_served_or_refused_for_a_reason() -> None:
    assert len(SERVED) >= 16
    assert set(MERGING) < set(SERVED)
    assert all("depends on" in why or "needs the signal" in why or "twice" in why for why in REFUSED.values())


def test_options_decide_too() -> None:
    assert VideoPruner(method="stride", options={"within": "frame"}).count(16, 4, 0.5) == 32
    with pytest.raises(InvalidValueError, match="needs the signal pixel_change"):
        VideoPruner(method="evs", options={"compare": "pixels"})
    with pytest.raises(UnknownNameError, match="unknown option of stride 'width'"):
        VideoPruner(method="stride", options={"width": 2})
    with pytest.raises(InvalidValueError, match="--video-pruning-rate says how much goes"):
        VideoPruner(method="stride", options={"budget": 3})


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), 1.5])
def test_rates_are_the_share_removed(rate: float) -> None:
    with pytest.raises(InvalidValueError, match=r"must be in \[0, 1\), the share REMOVED"):
        VideoPruner(method="stride").count(16, 4, rate)


def test_a_rate_that_is_no_number() -> None:
    with pytest.raises(InvalidTypeError, match="must be a number"):
        VideoPruner(method="stride").count(16, 4, "0.5")  # type: ignore[arg-type]


class _Boastful(PreLLMMethod):
    """Announces one token more than it keeps."""

    needs: ClassVar[tuple[str, ...]] = ()

    def reduce(self, tokens: VisualTokens) -> Reduction:
        return Reduction.select(tokens, torch.arange(self.budget.tokens(len(tokens)) - 1))


class _Unannounced:
    """Reduces, and never says how much."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        return Reduction.identity(tokens)


def test_a_wrong_count_never_reaches_the_prompt() -> None:
    register_method(_Boastful, "boastful")
    try:
        with pytest.raises(InvalidValueError, match=r"announced 18 tokens .* kept 17"):
            VideoPruner(method="boastful").mask(features_of((4, 3, 3)), VideoGrid(4, 3, 3), 0.5)
    finally:
        unregister_method("boastful")


def test_a_method_without_a_count_is_refused() -> None:
    register_method(_Unannounced, "unannounced")
    try:
        with pytest.raises(InvalidValueError, match="cannot say beforehand"):
            VideoPruner(method="unannounced")
    finally:
        unregister_method("unannounced")


def test_the_command_line_says_what_can_be_served() -> None:
    told = json.loads(run("methods", "--vllm", "--json").stdout)
    assert {row["name"]: row["vllm_lacks"] for row in told} == LACKING
    assert "needs the signal" in " ".join(run("methods", "--vllm").output.split())
    assert "| divprune | yes |  |" in run("methods", "--vllm", "--markdown").output
    for other in (["--stage", "kv"], ["--family", "qwen2_5_vl"]):
        failed_with(run("methods", "--vllm", *other), 2, "leave out --stage and --family")


# --- the plug-in, against modules shaped as vLLM's ---


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a vLLM would have in its registry."""
    found: dict[str, str] = {}
    vllm = ModuleType("vllm")
    vllm.ModelRegistry = SimpleNamespace(register_model=found.__setitem__)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    return found


def stock_module() -> Any:
    module = ModuleType("stock")
    module.compute_retained_tokens_count = (  # type: ignore[attr-defined]
        lambda tokens_per_frame, num_frames, q: int(tokens_per_frame * num_frames * (1 - q))
    )
    module.compute_retention_mask = (  # type: ignore[attr-defined]
        lambda video_embeds, video_size_thw, spatial_merge_size, q: "stock mask"
    )
    return module


def test_being_installed_changes_nothing(registered: dict[str, str]) -> None:
    vllm_plugin.register()
    assert registered == {}
    module = stock_module()
    vllm_hooks.answer_pruning(module)
    assert module.compute_retained_tokens_count(36, 8, 0.75) == 72
    assert module.compute_retention_mask(features_of((2, 3, 3)), (2, 6, 6), 2, 0.5) == "stock mask"


def test_a_choice_is_registered_as_often_as_vllm_asks(
    registered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vllm_plugin.METHOD, "divprune")
    vllm_plugin.register()
    once = dict(registered)
    vllm_plugin.register()
    assert registered == once
    assert set(once) == {"Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"}
    assert vllm_plugin.chosen_pruner() is vllm_plugin.chosen_pruner()


def test_the_chosen_method_answers_and_once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    module = stock_module()
    vllm_hooks.answer_pruning(module)
    answers = module.compute_retention_mask
    vllm_hooks.answer_pruning(module)
    assert module.compute_retention_mask is answers
    monkeypatch.setenv(vllm_plugin.METHOD, "stride")
    mask = module.compute_retention_mask(features_of((4, 3, 3)), [4, 6, 6], spatial_merge_size=2, q=0.75)
    assert int(mask.sum()) == module.compute_retained_tokens_count(9, 4, 0.75) == 9


def test_another_vllm_is_told_apart() -> None:
    module = stock_module()
    del module.compute_retention_mask
    with pytest.raises(UnsupportedModelError, match=r"stock has no compute_retention_mask; .* vLLM 0\.32"):
        vllm_hooks.answer_pruning(module)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("fastvid", "", "needs the signals saliency"),
        ("divprun", "", "Did you mean 'divprune'"),
        ("stride", "{", r"must be a JSON object, e\.g"),
        ("stride", "[1]", "must be a JSON object"),
        ("", '{"seed": 1}', "STREAMPRUNE_VLLM_METHOD names no method"),
    ],
)
def test_bad_choices_end_the_start(
    registered: dict[str, str], monkeypatch: pytest.MonkeyPatch, method: str, options: str, says: str
) -> None:
    monkeypatch.setenv(vllm_plugin.METHOD, method)
    monkeypatch.setenv(vllm_plugin.OPTIONS, options)
    with pytest.raises((InvalidValueError, UnknownNameError), match=says):
        vllm_plugin.register()
    assert registered == {}


def test_settings_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    theirs = SimpleNamespace(video_pruning_rate=0.5, video_pruning_method="vidcom2")
    vllm_hooks.check_pruning(theirs)  # nobody chose ours
    monkeypatch.setenv(vllm_plugin.METHOD, "divprune")
    with pytest.raises(InvalidValueError, match="--video-pruning-method vidcom2 asks for vLLM's own"):
        vllm_hooks.check_pruning(theirs)
    with caplog.at_level(logging.WARNING):
        vllm_hooks.check_pruning(SimpleNamespace(video_pruning_rate=None, video_pruning_method="evs"))
    assert "no --video-pruning-rate: every token stays" in caplog.text


@pytest.mark.parametrize("told", [False, True])
def test_the_cpu_runner_learns_what_its_model_does(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    class Runner:
        def __init__(self) -> None:
            self.is_multimodal_pruning_enabled = False

    module = ModuleType("runner")
    module.CPUModelRunner = Runner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.worker.cpu_model_runner", module)
    runner: Any = Runner()
    for _ in range(2):
        vllm_hooks.mend_cpu_runner()
    assert not runner.is_multimodal_pruning_enabled  # no model yet
    if told:
        runner.is_multimodal_pruning_enabled = True
    runner.model = SimpleNamespace(is_multimodal_pruning_enabled=not told)
    assert runner.is_multimodal_pruning_enabled


def test_request_features_are_copied_before_merged_rows_are_written() -> None:
    class Stock:
        visual_dim = 8

        def _postprocess_video_embeds_evs(self, rows: Any, given: Any) -> Any:
            return rows, vllm_hooks._scored_channels.get()

    class Ours(vllm_hooks.PrunedVideos, Stock):
        def __init__(self) -> None:
            pass

    rows = features_of((1, 2, 2))
    (copied,), channels = Ours()._postprocess_video_embeds_evs((rows,), {"type": "video_embeds"})
    assert torch.equal(copied, rows)
    assert copied.data_ptr() != rows.data_ptr()
    assert channels == 8
    (same,), _ = Ours()._postprocess_video_embeds_evs((rows,), {"type": "pixel_values_videos"})
    assert same is rows


START, END, IMAGE, VIDEO, TEXT = 4, 5, 6, 7, 50
MARKS = PromptMarks(start=START, end=END, image=IMAGE, video=VIDEO)


def test_a_whole_prompt_of_one_run_of_tokens() -> None:
    # text, two of six tokens, text, one of four, text
    ids = [51, START, VIDEO, VIDEO, END, 52, START, VIDEO, END, 53]
    whole = whole_prompt(ids, [VideoSpan(2, 2, 3, 2), VideoSpan(7, 1, 1, 4)], video=VIDEO, start=START)
    assert whole.ids == [51, START, *[VIDEO] * 6, END, 52, START, *[VIDEO] * 4, END, 53]
    assert whole.columns == [0, 1, 2, 3, 8, 9, 10, 11, 15, 16]
    assert [whole.shifts[place] for place in (0, 2, 4, 7, 9)] == [0, 0, 4, 4, 7]


def test_a_whole_prompt_of_marked_frames() -> None:
    # everything that is left of two frames of three tokens stands behind the mark of the first
    frames = [TEXT, START, VIDEO, VIDEO, VIDEO, VIDEO, END, TEXT, START, END]
    whole = whole_prompt([51, *frames, 52], [VideoSpan(1, 10, 2, 3)], video=VIDEO, start=START)
    assert whole.ids == [51, TEXT, START, *[VIDEO] * 3, END, TEXT, START, *[VIDEO] * 3, END, 52]
    assert whole.columns == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 12, 13]
    assert (whole.shifts[1], whole.shifts[11]) == (0, 2)


def test_a_prompt_without_videos_is_whole() -> None:
    assert whole_prompt([1, 2], [], video=VIDEO, start=START).columns == [0, 1]


def test_text_behind_a_pruned_video_stands_where_it_stood() -> None:
    """A model that numbers its prompt through sees the whole one, and what is shown in it further on."""

    @dataclass(frozen=True)
    class Place:
        offset: int
        length: int

    @dataclass(frozen=True)
    class Shown:
        modality: str
        mm_position: Place
        data: Any

    class Stock:
        is_multimodal_pruning_enabled = True
        config = SimpleNamespace(
            vision_config=SimpleNamespace(spatial_merge_size=2),
            video_token_id=VIDEO,
            vision_start_token_id=START,
        )

        def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Any:
            self.seen = [feature.mm_position.offset for feature in mm_features]
            return torch.arange(len(input_tokens)).expand(3, -1), 0

    class Ours(vllm_hooks.PrunedVideos, Stock):
        def __init__(self) -> None:
            pass

    video = {"video_grid_thw": SimpleNamespace(data=torch.tensor([3, 2, 4]))}
    features = [Shown("image", Place(5, 1), None), Shown("video", Place(1, 2), video)]
    model = Ours()
    ids = [51, VIDEO, VIDEO, 52, START, 6, 53]
    positions, delta = model.get_mrope_input_positions(ids, features)
    assert model.seen == [1, 9]
    assert positions[0].tolist() == [0, 1, 2, 7, 8, 9, 10]
    assert delta == 4
    model.is_multimodal_pruning_enabled = False
    assert model.get_mrope_input_positions(ids, features)[0].shape[1] == len(ids)


def test_spans_are_runs_of_tokens_or_videos_with_their_marks() -> None:
    run = [TEXT, START, VIDEO, VIDEO, END, TEXT, START, IMAGE, END]
    assert shown_spans(run, MARKS) == [(2, 4), (7, 8)]
    assert shown_spans([TEXT, TEXT], MARKS) == []
    assert shown_spans([], MARKS) == []
    frames = [TEXT, START, VIDEO, END, TEXT, START, END]  # the second lost all its tokens
    framed = [TEXT, START, *frames, END, TEXT, START, IMAGE, END, START, *frames, END]
    assert shown_spans(framed, MARKS) == [(2, 9), (12, 13), (15, 22)]


def test_rows_take_their_places_in_any_step() -> None:
    """Two videos behind much text, in one step or cut anywhere: the same positions."""
    ids = [*[TEXT] * 6, START, *[VIDEO] * 3, END, START, *[VIDEO] * 2, END, TEXT]
    spans = shown_spans(ids, MARKS)
    assert spans == [(7, 10), (12, 14)]
    told = torch.arange(len(ids)).expand(3, -1) * 10
    first, second = torch.tensor([[0, 0, 1], [1, 0, 0], [2, 1, 1]]), torch.tensor([[0, 1, 0], [3, 0, 0]])
    placed = place_rows(told, [first, second], spans, 0)
    assert placed[:, 7:10].T.tolist() == [[61, 61, 62], [62, 61, 61], [63, 62, 62]]
    assert placed[:, 12:14].T.tolist() == [[111, 112, 111], [114, 111, 111]]
    text = [place for place in range(len(ids)) if ids[place] != VIDEO]
    assert torch.equal(placed[:, text], told[:, text])
    for cut in (8, 9):
        begun = place_rows(told, [first[: cut - 7]], spans, 0)
        assert torch.equal(place_rows(begun, [first[cut - 7 :], second], spans, cut), placed)
    begun = place_rows(told, [first], spans, 0)
    assert torch.equal(place_rows(begun, [second[:0], second], spans, 11), placed)
    assert torch.equal(place_rows(placed, [], spans, 15), placed)
