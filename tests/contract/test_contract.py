"""What every pre-LLM method promises, checked for every row of the table."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from streamprune.budget import Budget
from streamprune.reduce import choose_reducer, reduce_tokens, run_reducer
from streamprune.reduction import Reduction
from streamprune.registry import get_method, list_methods
from streamprune.tokens import VideoGrid, VisualTokens
from tests.contract.row import Row
from tests.contract.signals import OF_THE_QUESTION, signals_of
from tests.contract.table import ROWS, clip

RATIOS = (0.02, 0.1, 0.25, 0.5, 0.77, 0.95)
GRIDS = ((1, 6, 5), (2, 5, 5), (5, 4, 7), (9, 7, 7), (17, 3, 4), (12, 1, 5), (4, 6, 1))
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

every_method = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def reduced(row: Row, features: torch.Tensor, **budget: float) -> Reduction:
    """The row's method on ``features`` with made signals."""
    return reduce_tokens(
        features,
        row.name,
        signals=signals_of(row, features),
        **budget,  # type: ignore[arg-type]
        **row.options,
    )


def check_consistent(row: Row, features: torch.Tensor, reduction: Reduction) -> None:
    """The invariants that hold for any decision of any method."""
    grid, kept = reduction.grid, len(reduction)
    assert reduction.features.shape == (kept, features.shape[-1])
    assert reduction.features.dtype == features.dtype
    assert reduction.features.device == features.device
    assert torch.isfinite(reduction.features).all()
    index, source = reduction.index, reduction.source
    assert index.dtype == torch.int64
    real = index[index >= 0]
    assert int(index.max()) < grid.tokens
    assert torch.equal(reduction.index[: len(real)], real), "zero rows come last"
    assert (len(real) == kept and (real.diff() > 0).all()) or row.repeats, "ascending and unique"
    assert (real.diff() >= 0).all()
    assert sorted(reduction.order.tolist()) == list(range(kept))
    assert source.shape == (grid.tokens,)
    lowest_row = torch.searchsorted(real, real)
    assert torch.equal(source[real], lowest_row), "a representative is its own row"
    assert int(source.max()) < kept
    assert reduction.size.dtype == torch.float32
    assert torch.equal(reduction.size, torch.bincount(source[source >= 0], minlength=kept).float())
    weights = reduction.weights.to_dense()
    assert weights.shape == (kept, grid.tokens)
    if not row.sums:
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(1), (index >= 0).float())
    assert (weights[torch.arange(len(real)), real] > 0).all() or row.sums
    assert torch.equal((weights != 0).any(0) | torch.isin(torch.arange(grid.tokens), real), source >= 0), (
        "a token is dropped or represented"
    )
    flat = features.reshape(grid.tokens, -1)
    torch.testing.assert_close(reduction.apply(flat), reduction.features)
    tolerance = 2e-2 if features.dtype != torch.float32 else 1e-5
    # what cancels in a sum is rounded as the largest value is
    limit = tolerance * max(1.0, float(flat.abs().max()))
    torch.testing.assert_close(weights @ flat.float(), reduction.features.float(), atol=limit, rtol=tolerance)
    if not row.merges:
        assert torch.equal(reduction.features[: len(real)], flat[real]), "kept unchanged"
        assert not reduction.features[len(real) :].any()


@every_method
@pytest.mark.parametrize(
    "budget",
    [{}, {"keep_ratio": 1}, {"keep_ratio": 1.0}, {"keep_tokens": 240}, {"keep_tokens": 1000}],
    ids=str,
)
def test_keeping_everything_changes_no_bit(row: Row, budget: dict[str, float]) -> None:
    features = clip()
    reduction = reduced(row, features, **budget)
    assert reduction.is_identity
    assert torch.equal(reduction.features, features.reshape(240, -1))
    assert torch.equal(reduction.index, torch.arange(240))
    assert torch.equal(reduction.size, torch.ones(240))
    assert torch.equal(reduction.weights.to_dense(), torch.eye(240))


@every_method
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_is_announced_is_kept(row: Row, grid: tuple[int, int, int]) -> None:
    shape, features = VideoGrid(*grid), clip(*grid)
    budgets = [Budget(keep_ratio=ratio) for ratio in RATIOS]
    budgets += [Budget(keep_tokens=n) for n in (1, shape.frames, shape.tokens // 3, shape.tokens - 1) if n]
    for budget in budgets:
        given = {"keep_ratio": budget.keep_ratio, "keep_tokens": budget.keep_tokens}
        method = choose_reducer(row.name, **given, options=row.options)  # type: ignore[arg-type]
        reduction = run_reducer(method, VisualTokens.from_grid(features, signals_of(row, features)))
        check_consistent(row, features, reduction)
        announced = method.count(shape)  # type: ignore[attr-defined]
        assert announced == len(reduction) or (announced is None and not row.counts)
        most = max(budget.tokens(shape.tokens) + row.overshoot(shape), row.least(shape))
        assert 1 <= len(reduction) <= min(most, shape.tokens)


@every_method
def test_runs_and_seeds_do_not_matter(row: Row) -> None:
    features = clip()
    before = features.clone()
    runs = []
    for seed in (0, 0, 1234):
        torch.manual_seed(seed)
        runs.append(reduced(row, features, keep_ratio=0.3))
    for other in runs[1:]:
        assert torch.equal(runs[0].index, other.index)
        assert torch.equal(runs[0].features, other.features)
        assert torch.equal(runs[0].weights.to_dense(), other.weights.to_dense())
    assert torch.equal(features, before), "the input is left alone"


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_decides_as_float32_does_on_the_same_values(row: Row, dtype: torch.dtype) -> None:
    features = clip().to(dtype)
    half, full = reduced(row, features, keep_ratio=0.3), reduced(row, features.float(), keep_ratio=0.3)
    check_consistent(row, features, half)
    assert torch.equal(half.index, full.index)
    assert torch.equal(half.source, full.source)
    assert torch.equal(half.features, full.features.to(dtype))


@every_method
@pytest.mark.parametrize("device", DEVICES)
def test_a_view_decides_as_its_copy_does_and_stays_on_its_device(row: Row, device: str) -> None:
    features = clip().to(device)
    view = features.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not view.is_contiguous()
    seen, expected = reduced(row, view, keep_ratio=0.3), reduced(row, features, keep_ratio=0.3)
    check_consistent(row, features, seen)
    assert torch.equal(seen.index, expected.index)
    torch.testing.assert_close(seen.features, expected.features)


@every_method
@pytest.mark.parametrize(
    "features",
    [
        pytest.param(clip(1, 6, 5), id="one frame"),
        pytest.param(clip(9, 1, 1), id="one token a frame"),
        pytest.param(clip(1, 1, 1), id="one token"),
        pytest.param(clip(1, 6, 5).expand(12, -1, -1, -1), id="identical frames"),
        pytest.param(torch.ones(6, 4, 4, 8), id="identical tokens"),
        pytest.param(torch.zeros(6, 4, 4, 8), id="zeros"),
        pytest.param(1e4 * clip(6, 4, 4), id="large values"),
    ],
)
def test_degenerate_clips_are_defined(row: Row, features: torch.Tensor) -> None:
    for ratio in (0.05, 0.3, 0.8):
        reduction = reduced(row, features, keep_ratio=ratio)
        check_consistent(row, features, reduction)
        again = reduced(row, features, keep_ratio=ratio)
        assert torch.equal(reduction.index, again.index)


@every_method
def test_sizes_from_an_earlier_merge_are_carried(row: Row) -> None:
    features = clip()
    size = torch.arange(240) % 3 + 1.0
    tokens = VisualTokens(features.reshape(240, -1), VideoGrid(8, 6, 5), signals_of(row, features), size=size)
    reduction = run_reducer(choose_reducer(row.name, keep_ratio=0.3, options=row.options), tokens)
    represented = reduction.source >= 0
    assert float(reduction.size.sum()) == float(size[represented].sum())
    row_of, expected = reduction.source[represented], torch.zeros(len(reduction))
    assert torch.equal(reduction.size, expected.index_add(0, row_of, size[represented]))


@pytest.mark.parametrize("row", [row for row in ROWS if row.causal], ids=lambda row: row.id)
def test_causal_methods_decide_a_prefix_without_what_follows(row: Row) -> None:
    features = clip(9)
    whole = reduced(row, features, keep_ratio=0.3)
    for frames in (1, 4, 8):
        start = reduced(row, features[:frames], keep_ratio=0.3)
        tokens = frames * 30
        assert torch.equal(start.index, whole.index[whole.index < tokens])
        assert torch.equal(start.features, whole.features[: len(start)])


@every_method
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_must_be_finite(row: Row, bad: float) -> None:
    features = clip()
    signals = signals_of(row, features)
    features[3, 2, 1, 0] = bad
    features[7, 5, 4, 15] = -bad
    with pytest.raises(ValueError, match=r"features must be finite; 2 of 240"):
        reduce_tokens(features, row.name, keep_ratio=0.3, signals=signals, **row.options)


NEEDS = [(row, name) for row, name in ((r, n) for r in ROWS for n in r.needs)]


@pytest.mark.parametrize(("row", "name"), NEEDS, ids=[f"{row.id}-{name}" for row, name in NEEDS])
def test_signals_must_be_there_shaped_and_finite(row: Row, name: str) -> None:
    features = clip()
    good = signals_of(row, features)
    spoilt = good[name].clone()
    spoilt.view(-1)[0] = float("nan")
    cases: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in good.items() if k != name}, "is needed and was not given"),
        ({**good, name: good[name][None]}, "must have shape"),
        ({**good, name: good[name].flatten()[:-1]}, "must have shape"),
        ({**good, name: spoilt}, "must be finite"),
        ({**good, name: good[name].tolist()}, "must be a torch tensor"),
    ]
    if name not in OF_THE_QUESTION:
        cases.append(({**good, name: good[name][:-1]}, "must have shape"))
    for signals, said in cases:
        with pytest.raises(ValueError, match=f"signal '{name}'.*{said}"):
            reduce_tokens(features, row.name, keep_ratio=0.3, signals=signals, **row.options)


@every_method
def test_a_misspelt_option_is_answered_with_the_known_ones(row: Row) -> None:
    known = next(iter(row.options), None)
    misspelt = f"{known}s" if known else "keep_ration"
    with pytest.raises(ValueError, match=f"unknown option of {row.name} '{misspelt}'"):
        reduce_tokens(clip(), row.name, keep_ratio=0.3, **{misspelt: 1})  # type: ignore[arg-type]


@every_method
@pytest.mark.parametrize(
    ("budget", "error"),
    [
        ({"keep_ratio": 0}, ValueError),
        ({"keep_ratio": -0.1}, ValueError),
        ({"keep_ratio": 1.5}, ValueError),
        ({"keep_ratio": float("nan")}, ValueError),
        ({"keep_ratio": "abc"}, TypeError),
        ({"keep_ratio": True}, TypeError),
        ({"keep_tokens": 0}, ValueError),
        ({"keep_tokens": 2.5}, TypeError),
        ({"keep_ratio": 0.5, "keep_tokens": 3}, ValueError),
    ],
    ids=str,
)
def test_bad_budgets_are_refused(row: Row, budget: dict[str, float], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"keep_ratio|keep_tokens"):
        reduced(row, clip(), **budget)


def test_every_pre_llm_method_is_in_the_table() -> None:
    assert {row.name for row in ROWS} == {info.name for info in list_methods("pre_llm")}


def test_rows_are_told_apart() -> None:
    assert all(a.id != b.id for a, b in itertools.combinations(ROWS, 2))


@pytest.mark.parametrize("name", sorted({row.name for row in ROWS}))
def test_class_and_registry_say_the_same(name: str) -> None:
    info = get_method("pre_llm", name)
    cls = info.load()
    assert tuple(cls.needs) == info.needs  # type: ignore[attr-defined]
    assert cls.causal == info.causal  # type: ignore[attr-defined]
    assert cls.__doc__
    if info.source != "baseline":
        assert f"Source: {info.source}" in cls.__doc__
