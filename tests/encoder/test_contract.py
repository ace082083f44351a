"""What every encoder method promises, checked for every row of the table."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.token_map import follow
from streamprune.registry import build_method, get_method, list_methods
from tests.encoder.table import ROWS, Row
from tests.encoder.towers import DEPTH, SHAPE, SIDE, WIDTH, pixels, run, stock, tower

every_method = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
PATCHES = SIDE * SIDE


class Watched:
    """Records what a method was given and what it decided."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: EncoderMethod) -> None:
        self.seen: list[tuple[LayerInput, LayerReduction]] = []
        decide = method.reduce_layer

        def reduce_layer(at: LayerInput) -> LayerReduction:
            decision = decide(at)
            self.seen.append((at, decision))
            return decision

        monkeypatch.setattr(type(method), "reduce_layer", lambda self, at: reduce_layer(at))


def hooks(module: torch.nn.Module) -> int:
    """Hooks on ``module`` and everything in it."""
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())


@every_method
@pytest.mark.parametrize("frames", [1, 5])
def test_a_setting_that_keeps_everything_changes_no_bit(row: Row, frames: int) -> None:
    method = row.build(**row.nothing)
    assert method.changes_nothing(SHAPE)
    out = run(method, pixels(frames))
    assert torch.equal(out.states[0], stock(pixels(frames)))
    assert out.tokens == (frames * PATCHES,) * DEPTH
    assert out.share == 1


@every_method
def test_it_does_something_otherwise(row: Row) -> None:
    method = row.build()
    assert not method.changes_nothing(SHAPE)
    out = run(method, pixels(8, drift=0.05))
    plain = stock(pixels(8, drift=0.05))
    assert out.states[0].shape == plain.shape
    assert torch.isfinite(out.states[0]).all()
    assert not torch.equal(out.states[0], plain)
    assert out.share < 1 or row.name == "ppt"
    assert out.tokens[0] == 8 * PATCHES


@every_method
def test_what_is_announced_goes_through(row: Row) -> None:
    method = row.build()
    announced = method.counts(SHAPE)
    assert (announced is not None) == row.counts
    out = run(method, pixels(3))
    if announced is not None and row.frames_alone:
        # what leaves a layer enters the next one
        assert out.tokens[1:] == tuple(3 * left for left in announced[:-1])
    assert all(later <= earlier for earlier, later in itertools.pairwise(out.tokens))


@every_method
def test_maps_lead_from_every_patch_to_one_token(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    method = row.build()
    watched = Watched(monkeypatch, method)
    run(method, pixels(1) if row.frames_alone else pixels(6, drift=0.05))
    steps = [decision.step for _, decision in watched.seen if decision.step is not None]
    assert steps
    for at, decision in watched.seen:
        step = decision.step
        if step is None:
            continue
        frames, tokens = at.states.shape[:2]
        flat = step.slot.flatten()
        assert step.slot.shape == (frames, tokens)
        assert torch.equal(flat[step.index.flatten()], torch.arange(step.index.numel())), "they lead back"
        assert len(set(step.index.flatten().tolist())) == step.index.numel()
        ones = torch.ones(frames, tokens, 2)
        left = step.apply(ones)
        assert left.shape == (*step.index.shape, 2)
        if row.sums:
            assert (left >= 1 - 1e-6).all()
        else:
            torch.testing.assert_close(left, torch.ones_like(left))
        torch.testing.assert_close(step.restore(torch.ones_like(left)), ones)
    ends = follow(steps)
    assert set(ends.flatten().tolist()) == set(range(steps[-1].index.numel())), "no token stands for nothing"


@every_method
def test_sizes_add_up_where_nothing_is_thrown_away(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    method = row.build()
    watched = Watched(monkeypatch, method)
    run(method, pixels(1))
    for at, decision in watched.seen:
        if row.name in ("tome", "token_transforming") and decision.size is not None:
            total = torch.tensor(float(PATCHES))
            torch.testing.assert_close(decision.size.sum(), total)
        if decision.step is not None and decision.size is not None:
            assert decision.size.shape == decision.step.index.shape
            assert (decision.size >= 1 - 1e-4).all() or row.name == "token_transforming"
        assert at.tokens <= PATCHES


@every_method
def test_runs_and_seeds_do_not_matter(row: Row) -> None:
    given = pixels(6, drift=0.05)
    before = given.clone()
    outs = []
    for seed in (0, 1234):
        torch.manual_seed(seed)
        outs.append(run(row.build(), given))
    assert torch.equal(outs[0].states[0], outs[1].states[0])
    assert outs[0].tokens == outs[1].tokens
    assert torch.equal(given, before)


@every_method
def test_the_tower_is_left_as_it_was(row: Row) -> None:
    model, given = tower(), pixels(4)
    plain, before = stock(given), hooks(model)
    weights = [weight.clone() for weight in model.parameters()]
    run(row.build(), given)
    assert hooks(model) == before
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    assert torch.equal(stock(given), plain)


@every_method
def test_hooks_go_when_a_decision_fails(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: EncoderMethod, at: LayerInput) -> LayerReduction:
        raise ArithmeticError

    method, before = row.build(), hooks(tower())
    monkeypatch.setattr(type(method), "reduce_layer", fail)
    with pytest.raises(ArithmeticError):
        run(method, pixels(2))
    assert hooks(tower()) == before


@pytest.mark.parametrize("row", [row for row in ROWS if row.frames_alone], ids=lambda row: row.id)
def test_a_frame_does_not_depend_on_the_others_of_its_batch(row: Row) -> None:
    given = pixels(4, drift=1.0)
    together = run(row.build(), given).states[0]
    for number, frame in enumerate(given):
        alone = run(row.build(), frame[None]).states[0]
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-4)


@every_method
def test_equal_frames_come_out_equal(row: Row) -> None:
    one = pixels(1)
    given = one.expand(7, -1, -1, -1)
    out = run(row.build(), given).states[0]
    torch.testing.assert_close(out, out[:1].expand_as(out), rtol=1e-4, atol=1e-4)
    if row.name == "earlytom":
        torch.testing.assert_close(out, stock(given), rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(out[:1], run(row.build(), one).states[0], rtol=1e-4, atol=1e-4)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_decides_as_float32_does_on_the_same_values(
    row: Row, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, row.build())
    run(row.build(), pixels(1 if row.frames_alone else 4, drift=0.05))
    for at, _ in list(watched.seen):
        halved = {name: getattr(at.signals, name).to(dtype) for name in row.build().needs}
        decisions = []
        for wide in (False, True):
            parts = {name: part.float() if wide else part for name, part in halved.items()}
            signals = LayerSignals(**parts, scaling=at.signals.scaling, bias=at.signals.bias)
            states = at.states.to(dtype).float() if wide else at.states.to(dtype)
            given = LayerInput(at.tower, at.layer, states, at.size, at.origin, signals, at.carried)
            decisions.append(row.build().reduce_layer(given))
        half, full = (decision.step for decision in decisions)
        if half is None or full is None:
            assert half is full
            continue
        assert torch.equal(half.index, full.index)
        assert torch.equal(half.slot, full.slot)
        values = at.states.to(dtype)
        assert torch.equal(half.apply(values), full.apply(values.float()).to(dtype))


@every_method
def test_a_half_precision_tower_runs(row: Row) -> None:
    model = copy.deepcopy(tower()).to(torch.bfloat16)
    out = run(row.build(), pixels(4, drift=0.05).to(torch.bfloat16), model).states[0]
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


@every_method
@pytest.mark.parametrize("kind", ["zeros", "equal patches"])
def test_frames_without_content_are_defined(row: Row, kind: str) -> None:
    given = torch.zeros(3, 3, 4 * SIDE, 4 * SIDE) + float(kind != "zeros")
    out = run(row.build(), given)
    assert torch.isfinite(out.states[0]).all()
    assert torch.equal(out.states[0], run(row.build(), given).states[0])


@every_method
def test_equal_tokens_and_single_ones_are_defined(row: Row) -> None:
    """States, projections and all: nothing tells one token from another, or there is only one."""
    for frames, tokens in ((4, 9), (4, 1), (1, 1)):
        shape = TowerShape(DEPTH, tokens, 1)
        states = torch.ones(frames, tokens, WIDTH)
        parts = torch.ones(frames, 2, tokens, WIDTH // 2)
        signals = build_signals(row.build(), parts)
        method = row.build()
        place = torch.arange(tokens).expand(frames, -1)
        layer = method.acting_layers(shape)[-1]
        at = LayerInput(shape, layer, states, None, place, signals, method.begin(states, shape))
        decision = method.reduce_layer(at)
        if decision.step is not None:
            left = decision.step.apply(states)
            assert torch.isfinite(left).all()
            assert 1 <= left.shape[1] <= tokens
            torch.testing.assert_close(decision.step.restore(left).flatten()[0], left.flatten()[0])


def build_signals(method: EncoderMethod, parts: torch.Tensor) -> LayerSignals:
    """Everything the method needs, all the same."""
    return LayerSignals(**dict.fromkeys(method.needs, parts), scaling=0.5)


@every_method
@pytest.mark.parametrize(
    ("layers", "error"),
    [((-1,), ValueError), ((1, 1), ValueError), ((2, 1), ValueError), ("12", TypeError), ((1.5,), TypeError)],
    ids=str,
)
def test_layers_must_be_ascending_numbers(row: Row, layers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="layers"):
        row.build(layers=layers)


@every_method
def test_layers_must_exist(row: Row) -> None:
    with pytest.raises(ValueError, match=r"layers must be below 4, the layers this tower runs"):
        row.build(layers=(1, 4)).counts(SHAPE)


@every_method
def test_a_misspelt_option_is_answered_with_the_known_ones(row: Row) -> None:
    with pytest.raises(ValueError, match=f"unknown option of {row.name} 'layer'.*'layers'"):
        row.build(layer=(1,))


def test_every_method_that_reduces_tokens_is_in_the_table() -> None:
    reducing = {info.name for info in list_methods("encoder") if issubclass(info.load(), EncoderMethod)}
    assert {row.name for row in ROWS} == reducing
    assert all(a.id != b.id for a, b in itertools.combinations(ROWS, 2))


@pytest.mark.parametrize("name", sorted({row.name for row in ROWS}))
def test_class_and_registry_say_the_same(name: str) -> None:
    info = get_method("encoder", name)
    cls = info.load()
    assert issubclass(cls, EncoderMethod)
    assert (cls.needs, cls.causal) == (info.needs, info.causal)
    assert cls.__doc__ is not None
    assert f"Source: {info.source}" in cls.__doc__
    assert build_method("encoder", name, {}) == build_method("encoder", name, {})
