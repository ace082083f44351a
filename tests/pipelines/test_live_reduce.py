"""Pre-LLM methods on a stream: frame by frame they decide what they decide for the whole clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from streamprune.budget import Budget
from streamprune.cache.ledger import Ledger
from streamprune.cache.token_bucket import TokenBucket
from streamprune.embedded.world import stream
from streamprune.errors import InvalidValueError, MemoryBudgetError, SignalError
from streamprune.models.base import EncodedFrames
from streamprune.ops.pixels import patch_change
from streamprune.pipelines.live_reduce import CausalReducer, KeptTokens, bucket_of
from streamprune.pipelines.offline import VideoLLM
from streamprune.pre_llm.base import History, PreLLMMethod
from streamprune.pre_llm.stc import STC
from streamprune.pre_llm.timechat_online import TimeChatOnline
from streamprune.reduce import Reducer, choose_reducer, run_reducer
from streamprune.reduction import Reduction
from streamprune.registry import build_method, list_methods
from streamprune.tokens import QUESTION_SIGNALS, VisualTokens
from tests.contract.row import Row
from tests.contract.signals import OF_THE_QUESTION, SIGNALS, signals_of
from tests.contract.table import ROWS, clip
from tests.goldens.adapters.temporal import features_of, grid_of
from tests.goldens.case import Case, cases_in

RECORDED = Path(__file__).parents[1] / "goldens" / "recorded"
FRAMES, PLACES = 9, 30

# variants that no row of the contract has
EXTRA = (
    Row("timechat_online", {"threshold": 0.7}),
    Row("timechat_online", {"drop_share": 0.4}),
    Row("timechat_online", {"threshold": 0.7, "reference": "last_kept"}),
    Row("timechat_online", {"drop_share": 0.4, "reference": "last_kept"}),
    Row("lvlm_csp", {"representatives": "random", "seed": 4}),
    Row("saint", {"similarity_threshold": 0.3}),
    Row("aim", {"rounds": 2}, merges=True),
)


def built(row: Row, **budget: Any) -> PreLLMMethod:
    """The row's method; a threshold takes the place of the ratio."""
    says_itself = bool({"threshold", "drop_share", "similarity_threshold", "rounds"} & row.options.keys())
    method = choose_reducer(row.name, options=row.options, **({} if says_itself else budget))
    assert isinstance(method, PreLLMMethod)
    return method


CAUSAL = [row for row in (*ROWS, *EXTRA) if built(row, keep_ratio=0.3).causal]
every_causal = pytest.mark.parametrize("row", CAUSAL, ids=lambda row: row.id)


def frames_of(row: Row, features: torch.Tensor) -> list[EncodedFrames]:
    """The clip as a stream gives it: a frame at a time, with the signals of that frame."""
    signals = {
        name: value for name, value in signals_of(row, features).items() if name not in OF_THE_QUESTION
    }
    return [
        EncodedFrames(
            features[number : number + 1],
            {name: value[number : number + 1] for name, value in signals.items()},
        )
        for number in range(len(features))
    ]


def standing(row: Row, features: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The question, for methods that read one."""
    return {name: SIGNALS[name](features) for name in row.needs if name in QUESTION_SIGNALS}


def streamed(reducer: CausalReducer, frames: list[EncodedFrames], first: int = 0) -> list[KeptTokens]:
    """What stays of each frame, half a second apart."""
    return [reducer.reduce(frame, 0.5 * (first + number)) for number, frame in enumerate(frames)]


def flat(kept: list[KeptTokens]) -> torch.Tensor:
    """Indices in the clip."""
    return torch.cat([one.index + number * PLACES for number, one in enumerate(kept)])


def unique_rows(reduction: Reduction) -> tuple[torch.Tensor, torch.Tensor]:
    """Index and features of a clip's decision, each place once."""
    index = reduction.index
    rows = [
        row for row in range(len(index)) if index[row] >= 0 and (row == 0 or index[row] != index[row - 1])
    ]
    return index[rows], reduction.features[rows]


def test_every_causal_method_is_here() -> None:
    assert {row.name for row in list_methods("pre_llm") if row.causal} <= {row.name for row in CAUSAL}
    assert len(CAUSAL) > 25


@every_causal
def test_frame_by_frame_decides_as_for_the_whole_clip(row: Row) -> None:
    features = clip(FRAMES)
    method = built(row, keep_ratio=0.3)
    whole = run_reducer(method, VisualTokens.from_grid(features, signals_of(row, features)))
    kept = streamed(CausalReducer(method, standing=standing(row, features)), frames_of(row, features))
    index, rows = unique_rows(whole)
    assert torch.equal(flat(kept), index)
    torch.testing.assert_close(torch.cat([one.features for one in kept]), rows, atol=1e-6, rtol=0)
    for one in kept:
        assert (one.index.diff() > 0).all()
        assert row.merges or one.sizes is None
    if all(one.sizes is not None for one in kept):
        assert torch.equal(torch.cat([one.sizes for one in kept if one.sizes is not None]), whole.size)


@every_causal
@pytest.mark.parametrize("cuts", [(4,), (1, 2, 7), (3, 6)], ids=str)
def test_cut_anywhere_the_steps_decide_as_one(row: Row, cuts: tuple[int, ...]) -> None:
    features = clip(FRAMES)
    signals = signals_of(row, features)
    method = built(row, keep_ratio=0.3)
    whole = method.step(VisualTokens.from_grid(features, signals), {})[0]
    history: History = {}
    found = []
    for start, stop in zip((0, *cuts), (*cuts, FRAMES), strict=True):
        part = {
            name: value if name in OF_THE_QUESTION else value[start:stop] for name, value in signals.items()
        }
        before = {name: value.clone() for name, value in history.items()}
        held = history
        reduction, history = method.step(VisualTokens.from_grid(features[start:stop], part), history)
        assert all(torch.equal(held[name], before[name]) for name in before), "what came before is left alone"
        found.append(torch.where(reduction.index >= 0, reduction.index + start * PLACES, -1))
    together = torch.cat(found)
    assert torch.equal(together[together >= 0], whole.index[whole.index >= 0])


@pytest.mark.parametrize("row", [row for row in CAUSAL if row not in EXTRA], ids=lambda row: row.id)
@pytest.mark.parametrize("count", [1, 7, 30, 100])
def test_keep_tokens_are_of_every_frame(row: Row, count: int) -> None:
    features = clip(4)
    method = built(row).with_count(count)
    kept = streamed(CausalReducer(method, standing=standing(row, features)), frames_of(row, features))
    for one in kept:
        assert 1 <= len(one.index) <= (PLACES if row.name == "none" else count)
        assert one.tokens_in == PLACES
        assert len(one.features) == len(one.index) == len(torch.unique(one.index))
    # blocks that tile a frame, rows that are not unique, a budget that the release leaves unspent
    if row.name not in ("pool", "holov", "vscan", "none"):
        assert all(len(one.index) == min(count, PLACES) for one in kept)


@every_causal
def test_a_bucket_bounds_every_method(row: Row) -> None:
    if row.name == "none":
        return
    features = torch.cat([clip(3, scene=1), clip(1).expand(16, -1, -1, -1), clip(3, scene=1)])
    bucket = TokenBucket(12, floor=2, cap=20, capacity=40)
    method = built(row)
    kept = streamed(CausalReducer(method, bucket, standing=standing(row, features)), frames_of(row, features))
    counts = [len(one.index) for one in kept]
    for start in range(len(counts)):
        for stop in range(start + 1, len(counts) + 1):
            assert sum(counts[start:stop]) <= 12 * 0.5 * (stop - start - 1) + 40
    assert max(counts) <= 20
    assert min(counts) >= 1
    if not (row.options or row.name in ("pool", "holov")):
        assert counts[0] == 20, "everything is new at first"
        assert counts[4:19] == [2] * 15, "nothing has changed"
        assert counts[19] >= 12, "and much was saved"


def test_a_threshold_asks_the_bucket_for_what_it_lets_stay() -> None:
    features = clip(FRAMES)
    row = Row("timechat_online", {"threshold": 0.7})
    frames = frames_of(row, features)
    alone = streamed(CausalReducer(built(row)), frames)
    generous = TokenBucket(10_000, capacity=10_000)
    same = streamed(CausalReducer(built(row), generous), frames)
    assert torch.equal(flat(alone), flat(same))
    poor = streamed(CausalReducer(built(row), TokenBucket(4, capacity=4)), frames)
    saved, expected = 4, []
    for one in alone:
        expected.append(min(saved, len(one.index)))
        saved = min(4, saved - expected[-1] + 2)
    assert [len(one.index) for one in poor] == expected
    for one, more in zip(poor[1:], alone[1:], strict=True):
        assert set(one.index.tolist()) <= set(more.index.tolist())


def test_nothing_granted_is_nothing_kept_and_the_frame_was_seen() -> None:
    features = clip(4, scene=1)
    bucket = TokenBucket(1e-6, capacity=30)
    frames = frames_of(Row("stc"), features)
    reducer, other = CausalReducer(STC(), bucket), CausalReducer(STC(budget=Budget(keep_tokens=5)))
    assert [len(one.index) for one in streamed(reducer, frames)] == [30, 0, 0, 0]
    streamed(other, frames)
    assert torch.equal(reducer.state()[0]["history.total"], other.state()[0]["history.total"])


@pytest.mark.parametrize("alike", [0.0, 2.0, 10.0])
def test_a_stream_asks_for_what_it_earns_however_alike_its_tokens_are(alike: float) -> None:
    generator = torch.Generator().manual_seed(2)
    paces = torch.tensor([1.0 if number % 5 == 0 else 0.02 for number in range(120)])
    moves = torch.randn(120, 6, 5, 16, generator=generator) * paces[:, None, None, None]
    features = moves.cumsum(0) + alike * torch.randn(16, generator=generator)
    bucket = TokenBucket(12, floor=1, cap=30, capacity=60)
    kept = streamed(CausalReducer(STC(), bucket), frames_of(Row("stc"), features))
    counts = [len(one.index) for one in kept]
    assert 4 <= sum(counts[1:]) / 119 <= 6.5, "six tokens a frame are earned"
    busy = [count for number, count in enumerate(counts[10:]) if number % 5 == 0]
    assert sum(busy) / sum(counts[10:]) > 0.7, "a fifth of the frames, which move"


def test_a_threshold_of_ones_own_says_what_has_changed() -> None:
    features = clip(FRAMES)
    alike = torch.nn.functional.cosine_similarity(features[1].flatten(0, 1), features[0].flatten(0, 1), -1)
    bucket = TokenBucket(10_000, capacity=10_000)
    reducer = CausalReducer(STC(), bucket, change_threshold=0.95)
    kept = streamed(reducer, frames_of(Row("stc"), features))
    assert len(kept[1].index) == int((alike < 0.95).sum())


def test_slow_drift_is_asked_for_at_last() -> None:
    start, end = clip(1), clip(1, scene=1).flip(1)
    features = torch.cat([start + (end - start) * share for share in torch.linspace(0, 1, 40)])
    bucket = TokenBucket(60, capacity=60)
    kept = streamed(CausalReducer(STC(), bucket), frames_of(Row("stc"), features))
    steps = torch.nn.functional.cosine_similarity(features[1:].flatten(1, 2), features[:-1].flatten(1, 2), -1)
    assert float(steps.min()) > 0.9, "no frame differs from the one before"
    assert sum(len(one.index) for one in kept[1:]) >= PLACES


GOLDENS = [case for case in cases_in(RECORDED) if case.folder in ("stc_pruner", "timechat_dtd")]


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.id)
def test_recorded_clips_are_decided_alike_step_by_step(case: Case) -> None:
    method, tokens, step = recorded(case)
    grid, found = tokens.grid, []
    history: History = {}
    for start in range(0, grid.frames, step):
        frames = slice(start, start + step)
        signals = {name: value[frames] for name, value in tokens.signals.items()}
        part = tokens.frames[frames].reshape(-1, grid.rows, grid.cols, tokens.features.shape[1])
        reduction, history = method.step(VisualTokens.from_grid(part, signals), history)
        found.append(reduction.index + start * grid.tokens_per_frame)
    kept = torch.cat(found)
    if case.exact:
        case.same("kept", kept)
    assert len(kept) == len(case.arrays["out_kept"])


def recorded(case: Case) -> tuple[PreLLMMethod, VisualTokens, int]:
    """The method with the options of a case, its clip, and how many frames of it come at once."""
    hp = case.hp
    if case.folder == "stc_pruner":
        step = hp["frames_per_call"]
        method: PreLLMMethod = STC(
            channel_share=hp["channel_keep"], frames_per_call=step, budget=Budget(keep_tokens=hp["k"])
        )
        # of a call's frames each keeps k
        method = method.with_count(hp["k"] * step)
        return method, VisualTokens.from_grid(features_of(case)), step
    options = {"threshold" if hp["absolute"] else "drop_share": hp["threshold"]}
    if hp["method"] != "pixel":
        return TimeChatOnline(**options), VisualTokens.from_grid(features_of(case)), 1
    change = patch_change(
        case.given("pixels"), grid_of(case), std=hp["clip_std"], slices=hp["temporal_patch"]
    )
    tokens = VisualTokens.from_grid(change[..., None], {"pixel_change": change})
    return TimeChatOnline(compare="pixels", **options), tokens, 1


def test_there_are_recorded_clips() -> None:
    assert len({case.folder for case in GOLDENS}) == 2


LATER = [row.name for row in list_methods("pre_llm") if not row.causal]


@pytest.mark.parametrize("name", LATER)
def test_methods_that_need_later_frames_are_refused(name: str) -> None:
    method = build_method("pre_llm", name, {"budget": Budget(keep_ratio=0.3)})
    with pytest.raises(
        InvalidValueError, match=r"frames that come later.*methods that do not: none, pool.*stc"
    ):
        CausalReducer(method)


@pytest.mark.parametrize(
    ("method", "bucket", "said"),
    [
        (TimeChatOnline(budget=Budget(keep_ratio=0.3)), None, "timechat_online with threshold="),
        (STC(frames_per_call=2), None, "STC, with these options, decides about a frame by frames"),
        ("stc", None, "build_method makes one of a name"),
        (STC, None, "must be an object with reduce"),
        (STC(budget=Budget(keep_ratio=0.5)), TokenBucket(1), "has a budget of its own, and the bucket"),
        (STC(budget=Budget(keep_tokens=5)), TokenBucket(1), "has a budget of its own, and the bucket"),
        (build_method("pre_llm", "none", {}), TokenBucket(1), "none keeps every token"),
        (build_method("pre_llm", "catp", {}), None, r"chooses by the question \(text_embeds\)"),
    ],
)
def test_what_a_stream_cannot_use_is_refused(method: Any, bucket: TokenBucket | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CausalReducer(method, bucket)


@dataclass(frozen=True)
class BrightestHalf:
    """A method of a user's own, which looks at each frame alone."""

    causal: ClassVar[bool] = True

    def reduce(self, tokens: VisualTokens) -> Reduction:
        brightest = tokens.frames.sum(-1).argsort(1)[:, tokens.grid.tokens_per_frame // 2 :].sort(1).values
        first = torch.arange(tokens.grid.frames)[:, None] * tokens.grid.tokens_per_frame
        return Reduction.select(tokens, (brightest + first).flatten())


def test_a_method_of_ones_own_is_shown_every_frame() -> None:
    features = clip(3)
    own: Reducer = BrightestHalf()
    kept = streamed(CausalReducer(own), frames_of(Row("none"), features))
    assert torch.equal(flat(kept), own.reduce(VisualTokens.from_grid(features)).index)
    with pytest.raises(InvalidValueError, match="BrightestHalf cannot be told how many tokens"):
        CausalReducer(own, TokenBucket(1))


STATEFUL = [row for row in CAUSAL if row.name in ("stc", "streaming_tom", "timechat_online", "lvlm_csp")]


@pytest.mark.parametrize("row", STATEFUL, ids=lambda row: row.id)
@pytest.mark.parametrize("bucketed", [False, True])
def test_state_goes_on_alike(row: Row, bucketed: bool) -> None:
    frames = frames_of(row, clip(FRAMES))

    def made() -> CausalReducer:
        bucket = TokenBucket(9, 1, capacity=30) if bucketed else None
        return CausalReducer(built(row) if bucketed else built(row, keep_ratio=0.3), bucket)

    reducer, other = made(), made()
    streamed(reducer, frames[:5])
    streamed(other, frames[6:])
    tensors, about = reducer.state()
    other.restore(tensors, json.loads(json.dumps(about)))
    went_on, resumed = streamed(reducer, frames[5:], 5), streamed(other, frames[5:], 5)
    assert torch.equal(flat(went_on), flat(resumed))
    reducer.reset()
    assert torch.equal(flat(streamed(reducer, frames)), flat(streamed(made(), frames)))


@pytest.mark.parametrize("row", STATEFUL, ids=lambda row: row.id)
def test_the_ledger_counts_what_is_held(row: Row) -> None:
    ledger, frames = Ledger(10**6), frames_of(row, clip(FRAMES))
    reducer = CausalReducer(built(row), TokenBucket(9, 1, capacity=30), ledger=ledger)
    reserved = reducer.reserve(frames[0])
    for number, frame in enumerate(frames):
        reducer.reduce(frame, number)
        held = {tensor.untyped_storage().data_ptr(): tensor for tensor in reducer.tensors()}
        assert reserved == ledger.held["frames"] == ledger.peak
        assert reserved == sum(tensor.untyped_storage().nbytes() for tensor in held.values())
        assert all(frame.features.untyped_storage().data_ptr() != pointer for pointer in held)
    reducer.close()
    reducer.close()
    assert ledger.total == 0
    with pytest.raises(MemoryBudgetError):
        CausalReducer(built(row), TokenBucket(9, 1, capacity=30), ledger=Ledger(10)).reserve(frames[0])


def test_a_frame_that_cannot_be_used_was_not_seen() -> None:
    row = Row("streaming_tom")
    frames = frames_of(row, clip(FRAMES))
    reducer, other = (CausalReducer(built(row), TokenBucket(9, 1, capacity=30)) for _ in range(2))
    streamed(reducer, frames[:4])
    streamed(other, frames[:4])
    spoilt = frames[4].features.clone()
    spoilt[0, 2, 3, 4] = float("nan")
    with pytest.raises(InvalidValueError, match="1 of 30 tokens of the frame hold NaN"):
        reducer.reduce(EncodedFrames(spoilt, frames[4].signals), 2.0)
    with pytest.raises(SignalError, match="received_attention"):
        reducer.reduce(EncodedFrames(frames[4].features, {}), 2.0)
    with pytest.raises(InvalidValueError, match="encoded must be one frame of tokens, got 2"):
        reducer.reduce(EncodedFrames(clip(2), {}), 2.0)
    assert torch.equal(flat(streamed(reducer, frames[4:], 4)), flat(streamed(other, frames[4:], 4)))


@pytest.mark.parametrize("row", STATEFUL, ids=lambda row: row.id)
def test_a_frame_of_another_size_begins_anew(row: Row) -> None:
    reducer = CausalReducer(built(row, keep_ratio=0.3))
    fresh = CausalReducer(built(row, keep_ratio=0.3))
    streamed(reducer, frames_of(row, clip(4)))
    other = frames_of(row, clip(3, 4, 4))
    for number in range(3):
        seen, expected = reducer.reduce(other[number], 9.0), fresh.reduce(other[number], 9.0)
        assert torch.equal(seen.index, expected.index)


def test_a_bucket_of_a_budget_earns_what_the_budget_would_spend() -> None:
    bucket = bucket_of(Budget(keep_ratio=0.25), 36, 2.0)
    assert (float(bucket.tokens_per_second), bucket.floor) == (18.0, 2)
    assert (bucket.cap, bucket.capacity) == (36, 180)
    bucket = bucket_of(Budget(keep_tokens=1), 36, 0.5)
    assert (float(bucket.tokens_per_second), bucket.floor) == (0.5, 1)
    assert (bucket.cap, bucket.capacity) == (36, 36)


@pytest.mark.parametrize("name", ["stc", "visionzip", "timechat_online"])
def test_a_model_seen_frame_by_frame_decides_as_for_the_whole_clip(vlm: VideoLLM, name: str) -> None:
    options = {"compare": "pixels", "drop_share": 0.5} if name == "timechat_online" else {}
    budget = {} if options else {"budget": Budget(keep_ratio=0.4)}
    method = build_method("pre_llm", name, {**options, **budget})
    family, world = vlm.family, stream(4, era_frames=448)
    pixels = family.preprocess([world.frame(number) for number in range(6)])
    whole = family.encode(pixels, method.needs)
    decided = run_reducer(method, whole.tokens(family.signals(whole.signals)))
    reducer, kept = CausalReducer(method), []
    for number in range(6):
        before = pixels[number - 1] if number else None
        kept.append(
            reducer.reduce(family.encode(pixels[number : number + 1], reducer.needs, before=before), number)
        )
    places = decided.grid.tokens_per_frame
    index = torch.cat([one.index + number * places for number, one in enumerate(kept)])
    assert torch.equal(index, decided.index)
