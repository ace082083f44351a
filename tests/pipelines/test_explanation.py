"""Explanations against what the stages themselves say, on small models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import streamprune as sp
from streamprune.encoder.base import TowerShape
from streamprune.encoder.stc import STCCacher
from streamprune.encoder.token_map import TokenMap, read_back
from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError, UnknownNameError
from streamprune.in_llm.base import Decision, PromptView
from streamprune.in_llm.fastv import FastV
from streamprune.in_llm.holitom import HoliTomInner
from streamprune.metrics.memory import PeakMemory
from streamprune.models.inside_tower import encode_inside
from streamprune.models.tower_witness import TowerWitness, tower_witness, witnessed_tower
from streamprune.pipelines import answer_cache
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.request import AnswerRequest, read_recipe
from streamprune.readers import open_source
from streamprune.reduce import run_reducer
from streamprune.report.explain.data import Explanation, TowerFates, TowerReuse
from streamprune.report.explain.overlay import BEFORE, DROPPED, KEPT, MERGED, overlay_of

QUESTION = "what colour is the circle ?"
# of Stats: whatever is not a time nor measured memory
COUNTED = (
    "frames", "tokens_in", "tokens_kept", "prompt_tokens", "new_tokens", "tower_share", "reduce_flops",
    "prefill_flops", "decode_flops", "kv_bytes",
)  # fmt: skip
CASES: dict[str, float | None] = {
    "none": None,
    "stride": 0.3,
    "fastvid": 0.4,
    "tome": 0.3,
    "holitom": 0.4,
    "fastv": 0.4,
    "pyramiddrop": 0.4,
    "lazyllm": 0.4,
    "snapkv": 0.4,
    "fastvid+fastv": 0.5,
    "in_llm:dycoke": 0.5,
    "kivi": None,
    "encoder:tome": None,
    "encoder:stc": None,
    "frames:vilamp": None,
}


@pytest.fixture(scope="module")
def video() -> NDArray[np.uint8]:
    frames = np.random.default_rng(1).integers(0, 256, (6, 36, 44, 3), dtype=np.uint8)
    frames[2] = frames[1]
    return frames


def explained(vlm: VideoLLM, video: Any, recipe: str | None, keep_ratio: float | None = None) -> Explanation:
    return vlm.explain(
        video, QUESTION, recipe=recipe, keep_ratio=keep_ratio, num_frames=4, max_new_tokens=3, command=["x"]
    )


@pytest.mark.parametrize(("recipe", "keep_ratio"), CASES.items())
def test_both_runs_are_those_of_ask(vlm: VideoLLM, video: Any, recipe: str, keep_ratio: float | None) -> None:
    found = explained(vlm, video, recipe, keep_ratio)
    settings: dict[str, Any] = {"num_frames": 4, "max_new_tokens": 3}
    own = vlm.ask(video, QUESTION, recipe=recipe, keep_ratio=keep_ratio, **settings)
    full = vlm.ask(video, QUESTION, **settings)
    assert found.full is not None
    for run, answer in ((found.reduced, own), (found.full, full)):
        assert run.answer["text"] == answer.text
        counted = answer.stats.to_dict()
        assert {name: run.stats[name] for name in COUNTED} == {name: counted[name] for name in COUNTED}
        assert sum(run.kv_bytes) == run.stats["kv_bytes"]
    assert found.pts_seconds == own.pts_seconds
    assert len(found.pictures) == len(found.pts_seconds) == found.grid[0] == 4
    assert [one.pts_seconds for (one,) in found.pictures] == list(own.pts_seconds)
    assert found.same_frames == (recipe != "frames:vilamp")
    assert found.reduced.layer_tokens[0] == own.stats.tokens_kept == len(found.kept.index)
    if found.in_llm is not None:
        assert found.reduced.layer_tokens == tuple(one.count("1") for one in found.in_llm.present)


@pytest.mark.parametrize("recipe", ["stride", "fastvid", "tome", "holitom"])
def test_what_was_kept_is_the_reduction(vlm: VideoLLM, video: Any, recipe: str) -> None:
    found = explained(vlm, video, recipe, 0.4)
    request = AnswerRequest((QUESTION,), read_recipe(recipe, 0.4))
    encoded = vlm.encode(video, num_frames=4, signals=request.needs())
    reduction = run_reducer(request.method(), encoded.tokens)
    assert list(found.kept.index) == reduction.index.tolist()
    assert list(found.kept.source) == reduction.source.tolist()
    assert list(found.kept.size) == reduction.size.tolist()
    frame = reduction.index // reduction.grid.tokens_per_frame
    assert list(found.kept.per_frame) == [int((frame == n).sum()) for n in range(4)]
    assert found.kept.merges == (recipe != "stride")


def test_segments_are_the_methods_own_where_it_has_some(vlm: VideoLLM, video: Any) -> None:
    request = AnswerRequest((QUESTION,), read_recipe("fastvid", 0.4))
    encoded = vlm.encode(video, num_frames=4, signals=request.needs())
    method: Any = request.method()
    own = explained(vlm, video, "fastvid", 0.4).segments
    assert list(own.edges) == method.segments(encoded.tokens.signals["frame_features"])
    assert "fastvid" in own.said
    ours = explained(vlm, video, "stride", 0.4).segments
    assert "for the eye only" in ours.said
    assert [edge for pair in ours.edges for edge in pair][::2][0] == 0
    assert ours.edges[-1][1] == 4


def test_similarity_is_the_mean_over_places(vlm: VideoLLM, video: Any) -> None:
    found = explained(vlm, video, "stride", 0.4)
    features = vlm.encode(video, num_frames=4).tokens.frames.double()
    expected = torch.nn.functional.cosine_similarity(features[1:], features[:-1], dim=-1).mean(1)
    assert found.similarity == pytest.approx(expected.tolist(), abs=1e-5)


def test_attention_is_that_of_the_signal(vlm: VideoLLM, video: Any) -> None:
    """Noted in the run without the recipe; read alone, it is the signal that methods know."""
    from streamprune.models.question_signals import with_question

    found = explained(vlm, video, "stride", 0.3)
    tokens = vlm.encode(video, num_frames=4).tokens
    asked = with_question(vlm.family, QUESTION, tokens, ("query_frame_attention",))
    assert found.attention is not None
    expected = asked.tokens.signals["query_frame_attention"].tolist()
    assert found.attention.frames == pytest.approx(expected, abs=1e-5)
    assert sum(found.attention.tokens) == pytest.approx(1, abs=1e-4)
    per_frame = np.array(found.attention.tokens).reshape(4, -1).sum(1)
    assert per_frame == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("recipe", "method"), [("fastv", FastV), ("holitom", HoliTomInner)])
def test_what_is_let_go_inside_is_what_the_method_decided(
    vlm: VideoLLM, video: Any, recipe: str, method: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[PromptView, Decision]] = []
    decide = method.decide

    def noted(self: Any, view: PromptView) -> Decision:
        decision: Decision = decide(self, view)
        seen.append((view, decision))
        return decision

    monkeypatch.setattr(method, "decide", noted)
    found = explained(vlm, video, recipe, 0.5)
    ((view, decision),) = seen
    assert view.places is not None
    stay = torch.isin(view.visual, decision.kept)
    assert found.in_llm is not None
    last = [found.kept.index[row] for row, mark in enumerate(found.in_llm.present[-1]) if mark == "1"]
    assert last == view.places[stay].tolist()
    assert found.in_llm.cuts == (view.layer,)
    assert found.in_llm.present[view.layer - 1].count("0") == 0
    if recipe == "holitom":  # which merges what it lets go
        gone = [found.kept.index[row] for _, row, _ in found.in_llm.merged]
        assert sorted(gone) == view.places[~stay].tolist()
        assert all(found.in_llm.present[-1][to] == "1" for _, _, to in found.in_llm.merged)
        assert decision.entries is not None
        rank = {row: number for number, row in enumerate(view.visual.tolist())}
        expected = {
            rank[row]: rank[int(decision.kept[to])]
            for to, row, weight in zip(*(part.tolist() for part in decision.entries), strict=True)
            if weight and row in rank and row not in decision.kept.tolist()
        }
        assert {row: to for _, row, to in found.in_llm.merged} == expected


def test_what_the_cache_holds_is_what_its_labels_say(
    vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Any] = []
    make = answer_cache.answer_cache

    def noted(*given: Any) -> Any:
        caches.append(make(*given))
        return caches[-1]

    monkeypatch.setattr("streamprune.pipelines.asking.answer_cache", noted)
    found = explained(vlm, video, "snapkv", 0.4)
    cache = caches[-1]
    assert found.cache is not None
    assert len(found.cache.layers) == len(list(cache.kept_layers()))
    for told, (number, layer) in zip(found.cache.layers, cache.kept_layers(), strict=True):
        segments, cells = layer.entries["segments"][0], layer.entries["cells"][0]
        visual = segments >= 0
        flat = segments[visual] * found.grid[1] * found.grid[2] + cells[visual]
        expected = torch.bincount(flat.long(), minlength=len(found.kept.source))
        assert told.layer == number
        assert list(told.held) == expected[list(found.kept.index)].tolist()
        assert 0 < sum(told.held) < found.cache.heads * len(found.kept.index)
        assert told.entries == layer.held


def test_beside_a_method_inside_the_cache_counts_its_own_rows(vlm: VideoLLM, video: Any) -> None:
    text = '[in_llm]\nmethod = "fastv"\nkeep_ratio = 0.5\n[kv]\nmethod = "streamingllm"\nkeep_ratio = 0.8\n'
    found = vlm.explain(
        video, QUESTION, recipe=sp.Recipe.from_toml(text), num_frames=4, max_new_tokens=1, command=["x"]
    )
    assert found.cache is not None
    assert found.in_llm is not None
    for layer in found.cache.layers:
        present = found.in_llm.present[layer.layer]
        assert all(mark == "1" or not held for mark, held in zip(present, layer.held, strict=True))
        assert 0 < sum(layer.held) <= found.cache.heads * present.count("1")


def test_fates_inside_the_tower_follow_every_step() -> None:
    """Six patches: 3 into 2; then 2 (with 3) into 0, and 5 is let go, read back from 4."""
    first = TokenMap.merge(
        torch.tensor([[0, 1, 2, 4, 5]]),
        torch.tensor([[0, 1, 2, 2, 3, 4]]),
        torch.tensor([[1, 1, 0.5, 0.5, 1, 1]]),
    )
    second = TokenMap.merge(
        torch.tensor([[0, 1, 3]]), torch.tensor([[0, 1, 0, 2, 2]]), torch.tensor([[0.4, 1, 0.6, 1, 0]])
    )
    witness = TowerWitness()
    witness.climbed(TowerShape(4, 2, 3), 1, [(1, first), (2, second)], (6, 6, 5, 3))
    (climb,) = witness.climbs
    assert climb.layers == (1, 2)
    assert climb.left_at.tolist() == [-1, -1, 1, 0, -1, 1]
    assert climb.into.tolist() == [0, 1, 0, 2, 4, 4]
    assert climb.merged.tolist() == [False, False, True, True, False, False]
    # the same as what every patch is read back as
    ends = read_back([first, second], torch.tensor([0.0, 1, 4]).reshape(1, 3, 1)).flatten().tolist()
    assert ends == [0, 1, 0, 0, 4, 4]


def test_places_in_the_tower_are_those_read_back(vlm: VideoLLM, video: Any) -> None:
    found = explained(vlm, video, "encoder:tome")
    tower = found.tower
    assert isinstance(tower, TowerFates)
    left = [place for place, at in enumerate(tower.left_at) if at < 0]
    with witnessed_tower() as seen:
        vlm.encode(video, num_frames=4, recipe="encoder:tome")
    assert sum(climb.frames for climb in seen.climbs) == 4
    assert tower.tokens == tuple(sum(one) for one in zip(*(c.tokens for c in seen.climbs), strict=True))
    standing = {into for place, into in enumerate(tower.into) if tower.left_at[place] >= 0}
    assert standing
    assert len(left) == 4 * tower.rows * tower.cols - sum(at >= 0 for at in tower.left_at)
    overlay = overlay_of(found)
    assert overlay.per_picture
    assert (overlay.state == KEPT).sum() == len(left)
    assert tower_witness() is None


def test_reused_places_are_those_the_tower_did_not_compute(vlm: VideoLLM, video: Any) -> None:
    found = explained(vlm, video, "encoder:stc")
    assert isinstance(found.tower, TowerReuse)
    stream: Any = encode_inside(vlm.family, STCCacher())
    source = open_source(video)
    for number, seconds in enumerate(found.pts_seconds):
        (frame,) = source.sample([seconds])
        with vlm.family.lock:
            stream(vlm.family.preprocess([frame.image]), (), None)
        each = found.grid[1] * found.grid[2]
        marks = [layer[number * each : (number + 1) * each] for layer in found.tower.recomputed]
        fresh = np.array([[mark == "1" for mark in layer] for layer in marks]).any(0)
        assert fresh.tolist() == (~stream.__self__.reused_cells).flatten().tolist()
    source.close()


def test_a_video_that_only_fits_when_reduced_is_explained_without_the_other_run(
    bare_vlm: VideoLLM, video: Any
) -> None:
    found = bare_vlm.explain(
        video, QUESTION, recipe="stride", keep_ratio=0.1, num_frames=4, max_new_tokens=2,
        positions="renumber", command=["x"],
    )  # fmt: skip
    assert found.full is None
    assert "no answer from every token" in found.notes[0]
    assert found.attention is not None
    assert found.attention.tokens == ()
    assert sum(found.attention.frames) == pytest.approx(1, abs=1e-4)
    assert found.reduced.answer["text"] == found.to_dict()["reduced"]["answer"]["text"]


def test_the_last_stage_is_what_pictures_show(vlm: VideoLLM, video: Any) -> None:
    found = explained(vlm, video, "fastvid+fastv", 0.5)
    state = overlay_of(found).state
    assert found.in_llm is not None
    assert (state == KEPT).sum() == found.in_llm.present[-1].count("1")
    assert (state == DROPPED).sum() == found.in_llm.present[0].count("1") - (state == KEPT).sum()
    dropped = sum(row < 0 for row in found.kept.source)
    assert dropped <= (state == BEFORE).sum() <= len(state) - (state == KEPT).sum() - (state == MERGED).sum()


def test_each_run_has_a_peak_of_its_own(vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    start, read = PeakMemory.start, PeakMemory.read

    def started(self: PeakMemory) -> PeakMemory:
        events.append(f"start {id(self)}")
        return start(self)

    def noted(self: PeakMemory) -> int:
        events.append(f"read {id(self)}")
        return read(self)

    monkeypatch.setattr(PeakMemory, "start", started)
    monkeypatch.setattr(PeakMemory, "read", noted)
    found = explained(vlm, video, "stride", 0.3)
    reads = [place for place, event in enumerate(events) if event.startswith("read")]
    assert len(reads) == 2
    assert found.full is not None
    for place in reads:
        assert events[place - 1] == events[place].replace("read", "start"), "nothing between them"


def test_asked_wrongly(vlm: VideoLLM, video: Any) -> None:
    with pytest.raises(InvalidTypeError, match="EncodedVideo"):
        vlm.explain(vlm.encode(video, num_frames=2), QUESTION)
    with pytest.raises(InvalidTypeError, match="question must be one text, got list"):
        vlm.explain(video, [QUESTION])  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="question must not be empty"):
        vlm.explain(video, "  ")
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'fastvit'\. Did you mean 'fastvid'"):
        vlm.explain(video, QUESTION, recipe="fastvit")
    with pytest.raises(RecipeError, match="budget"):
        vlm.explain(video, QUESTION, recipe="stride", budget=3)
    with pytest.raises(sp.StreampruneError):
        vlm.explain(np.zeros((0, 8, 8, 3), np.uint8), QUESTION)


def test_a_source_stays_open_and_others_are_closed(
    vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(video)
    explained(vlm, source, "stride", 0.5)
    assert not source.closed
    source.close()
    opened = []

    @contextmanager
    def failing(*given: Any) -> Iterator[None]:
        raise RuntimeError("broken")
        yield

    def kept(*given: Any, **settings: Any) -> Any:
        opened.append(open_source(*given, **settings))
        return opened[-1]

    monkeypatch.setattr("streamprune.pipelines.explanation.open_source", kept)
    monkeypatch.setattr("streamprune.pipelines.explanation_runs.witnessed_tower", failing)
    with pytest.raises(RuntimeError, match="broken"):
        explained(vlm, video, "stride", 0.5)
    assert opened[0].closed


def test_frames_that_are_only_spread_are_shown_to_both_runs(vlm: VideoLLM, video: Any) -> None:
    text = '[frames]\nmethod = "uniform"\nnum_frames = 3\n[encoder]\nmethod = "tome"\n'
    found = vlm.explain(video, QUESTION, recipe=sp.Recipe.from_toml(text), max_new_tokens=1, command=["x"])
    assert found.full is not None
    assert found.same_frames
    assert found.full.answer["pts_seconds"] == found.reduced.answer["pts_seconds"]
    chosen = vlm.explain(
        video, QUESTION, recipe="frames:vilamp", num_frames=3, max_new_tokens=1, command=["x"]
    )
    assert chosen.full is not None
    assert not chosen.same_frames
    assert chosen.full.stats["frames"] == chosen.reduced.stats["frames"] == 3
    even = vlm.ask(video, QUESTION, num_frames=3, max_new_tokens=1).pts_seconds
    assert chosen.full.answer["pts_seconds"] == list(even)
    assert chosen.attention is not None
    assert len(chosen.attention.frames) == 3
    assert "read once more" in chosen.attention.said
