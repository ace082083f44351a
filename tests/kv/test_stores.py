"""Each store against the plain arithmetic of its paper, and what all of them promise about entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.kv.cskv import CSKV, along, joined_heads, main_directions
from streamprune.kv.fourier_attention import FourierAttention
from streamprune.kv.kivi import ChannelCodes, Kivi
from streamprune.kv.method import CacheMethod, EveryEntry
from streamprune.kv.mustafar import LargeElements, Mustafar
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.store import Chain, Kind, Packed, Place, Store, used_only
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.ops.bits import pack_bits, unpack_bits
from streamprune.ops.selection import entries_at
from streamprune.registry import build_method, list_methods

KINDS: tuple[Kind, ...] = ("keys", "values")
FOURIER = FourierAttention(states=16, room=20, exact_first=3, exact_last=0)
CHAINS: dict[str, tuple[Store, ...]] = {
    "kivi": (Kivi(bits=4, group=8, exact_last=0),),
    "mustafar": (Mustafar(exact_last=0),),
    "cskv": (CSKV(exact_last=0),),
    "fourier": (FOURIER,),
    "mustafar+kivi": (Mustafar(exact_last=0), Kivi(bits=8, group=8, exact_last=0)),
    "cskv+kivi": (CSKV(exact_last=0), Kivi(bits=8, group=8, exact_last=0)),
    "fourier+mustafar": (FOURIER, Mustafar(exact_last=0)),
    "all": (Kivi(bits=8, group=8, exact_last=0), Mustafar(exact_last=0), FOURIER, CSKV(exact_last=0)),
}
each_chain = pytest.mark.parametrize("stores", CHAINS.values(), ids=CHAINS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def entries(count: int = 61, *, rows: int = 2, heads: int = 3, dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, heads, count, dim, generator=torch.Generator().manual_seed(seed))


def packed(x: torch.Tensor, stores: tuple[Store, ...], kind: Kind = "keys") -> Packed:
    place = Place(kind, 1, 4, int(x.shape[1]), int(x.shape[-1]))
    return Chain(place, stores).pack(x)


def some(count: int, kept: int, *, rows: int = 2, heads: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    rolls = [torch.randperm(count, generator=generator)[:kept].sort().values for _ in range(rows * heads)]
    return torch.stack(rolls).reshape(rows, heads, kept)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bits_come_back(bits: int) -> None:
    codes = torch.arange(2 * 13).reshape(2, 13) % 2**bits
    held = pack_bits(codes, bits)
    assert held.shape == (2, math.ceil(13 * bits / 8))
    assert torch.equal(unpack_bits(held, bits, 13).long(), codes)
    first = [sum(int(codes[0, i]) << (i * bits) for i in range(8 // bits))]
    assert held[0, :1].tolist() == first


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [64, 61, 5])
def test_kivi_keys_against_numpy(bits: int, count: int) -> None:
    x, group = entries(count), 16
    got = packed(x, (Kivi(bits=bits, group=group, exact_last=0),)).load().numpy()
    for start in range(0, count, group):
        run = x[:, :, start : start + group].numpy()
        zero, top = run.min(2, keepdims=True), run.max(2, keepdims=True)
        scale = (top - zero) / (2**bits - 1)
        expected = (
            np.clip(np.rint((run - zero) / np.where(scale > 0, scale, 1)), 0, 2**bits - 1) * scale + zero
        )
        assert np.abs(got[:, :, start : start + group] - expected).max() < 1e-6
        assert (np.abs(got[:, :, start : start + group] - run) <= scale / 2 + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [4, 5, 32])
def test_kivi_values_against_numpy(bits: int, group: int) -> None:
    x = entries(9)
    got = packed(x, (Kivi(bits=bits, group=group, exact_last=0),), "values").load().numpy()
    for start in range(0, 12, group):
        run = x[..., start : start + group].numpy()
        zero, top = run.min(-1, keepdims=True), run.max(-1, keepdims=True)
        scale = (top - zero) / (2**bits - 1)
        expected = (
            np.clip(np.rint((run - zero) / np.where(scale > 0, scale, 1)), 0, 2**bits - 1) * scale + zero
        )
        assert np.abs(got[..., start : start + group] - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("given", "back"),
    [([0.0, 1, 2, 3], [0.0, 1, 2, 3]), ([0, 0, 0, 3.0], [0, 0, 0, 3.0]), ([0, 1, 1.4, 3], [0, 1, 1, 3])],
)
def test_kivi_by_hand(given: list[float], back: list[float]) -> None:
    store = Kivi(bits=2, group=4, exact_last=0)
    x = torch.tensor(given)
    assert packed(x[None, None, :, None], (store,)).load().flatten().tolist() == back
    assert packed(x[None, None, None], (store,), "values").load().flatten().tolist() == back
    same = torch.full((1, 1, 4, 3), 7.3)
    assert torch.equal(packed(same, (store,)).load(), same), "equal elements come back"


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kivi_bytes(kind: Kind, dtype: torch.dtype) -> None:
    x = entries(64, dim=32).to(dtype)
    held = packed(x, (Kivi(bits=2, group=16, exact_last=0),), kind)
    elements, item = x.numel(), x.element_size()
    assert sum(t.nbytes for t in held.tensors()) == elements * 2 // 8 + 2 * item * elements // 16
    assert {t.dtype for t in held.tensors()} == {torch.uint8, dtype}


def test_kivi_groups_outlive_their_tokens_and_are_made_anew_when_few_are_left() -> None:
    x = entries(64)
    held = ChannelCodes.of(x, 4, 8)
    fewer = held.take(some(64, 40))
    assert torch.equal(fewer.load(), entries_at(held.load(), some(64, 40)))
    assert fewer.member is not None
    assert fewer.member.dtype == torch.int32
    first = held.take(torch.arange(16).expand(2, 3, -1))
    assert first.scale.shape[2] == 2, "groups that nobody needs are let go"
    assert first.member is not None
    more = first.add(x[:, :, 16:27]).add(x[:, :, 27:30])
    assert torch.equal(more.load()[:, :, :16], held.load()[:, :, :16])
    assert torch.equal(more.load()[:, :, 16:27], ChannelCodes.of(x[:, :, 16:27], 4, 8).load())
    sparse = held.take(torch.arange(0, 64, 8).expand(2, 3, -1))
    assert sparse.member is None
    assert sparse.scale.shape[2] == 1
    read = held.load()[:, :, ::8]
    scale = (read.amax(2, keepdim=True) - read.amin(2, keepdim=True)) / 15
    assert ((sparse.load() - read).abs() <= scale / 2 + 1e-6).all()


def test_mustafar_by_hand() -> None:
    x = torch.tensor([[4.0, -1, 3, 2]])[None, None]
    assert packed(x, (Mustafar(sparsity=0.5),)).load().flatten().tolist() == [4, 0, 3, 2]
    equal = torch.tensor([[2.0, -2, 2, 2]])[None, None]
    assert packed(equal, (Mustafar(sparsity=0.5),)).load().flatten().tolist() == [2, -2, 2, 0]
    for sparsity, kept in ((0.5, 65), (0.7, 40), (0.9, 14)):
        assert LargeElements(128, sparsity).kept == kept


@pytest.mark.parametrize("dim", [12, 16])
def test_mustafar_against_numpy(dim: int) -> None:
    x = entries(21, dim=dim)
    held = packed(x, (Mustafar(sparsity=0.7),))
    got, size = held.load().numpy(), np.abs(x.numpy())
    threshold = np.sort(size, -1)[..., int(0.7 * dim) - 1 : int(0.7 * dim)]
    assert (got == np.where(size >= threshold, x.numpy(), 0)).all()
    kept = dim - int(0.7 * dim) + 1
    assert sum(t.nbytes for t in held.tensors()) == 2 * 3 * 21 * (math.ceil(dim / 8) + 4 * kept)


@each_kind
def test_cskv_against_numpy(kind: Kind) -> None:
    x = entries(61) * torch.linspace(0.1, 2, 12) + 3
    held = packed(x, (CSKV(density=0.5, exact_last=0),), kind)
    got = held.load()
    for row in range(2):
        joined = x[row].transpose(0, 1).reshape(61, 36).double().numpy()
        mean = joined.mean(0)
        left, sizes, right = np.linalg.svd(joined - mean, full_matrices=False)
        best = (left[:, :18] * sizes[:18]) @ right[:18] + mean
        ours = got[row].transpose(0, 1).reshape(61, 36).numpy()
        assert np.abs(ours - best).max() < 1e-5
        lost = np.sqrt((sizes[18:] ** 2).sum())
        assert abs(np.linalg.norm(ours - joined) - lost) < 1e-4, "no 18 directions lose less"
    assert sum(t.nbytes for t in held.tensors()) == 4 * 2 * (36 + 36 * 18 + 61 * 18)


def test_cskv_with_all_directions_loses_nothing() -> None:
    x = entries(61)
    mean, directions = main_directions(joined_heads(x), 36)
    back = along(joined_heads(x), mean, directions)[:, 0] @ directions.transpose(1, 2) + mean
    assert (back - joined_heads(x)).abs().max() < 1e-5


def test_cskv_drops_a_token_when_no_head_keeps_it() -> None:
    held = packed(entries(61), (CSKV(exact_last=0),))
    alike = held.take(torch.arange(20, 50).expand(2, 3, -1))
    assert sum(t.nbytes for t in alike.tensors()) == 4 * 2 * (36 + 36 * 18 + 30 * 18)
    chosen = some(61, 10)
    apart = held.take(chosen)
    tokens = max(len(set(row.flatten().tolist())) for row in chosen)
    assert sum(t.nbytes for t in apart.tensors()) == 4 * 2 * (36 + 36 * 18 + tokens * 18 + 3 * 10)


def _waves(count: int, period: int, states: int) -> Any:
    columns = []
    for turns in range(states // 2):
        angles = 2 * np.pi * turns * np.arange(count) / period
        columns += [np.cos(angles), np.sin(angles)]
    return np.stack(columns, -1)


@each_kind
def test_fourier_attention_against_numpy(kind: Kind) -> None:
    x = entries(61)
    got = packed(x, (FOURIER,), kind).load().numpy()
    table, share = _waves(58, 78, 16), 0.8
    for row in range(2):
        for head in range(3):
            series = x[row, head, 3:].double().numpy()
            back = table @ (table.T @ series)
            fitted = (back - back.mean(0)) / back.std(0) * series.std(0) + series.mean(0)
            error = ((fitted - series) ** 2).mean(0)
            expected = x[row, head].double().numpy().copy()
            waved = np.sort(np.argsort(error)[: int(share * 12)])
            expected[3:, waved] = fitted[:, waved]
            assert np.abs(got[row, head] - expected).max() < 1e-4
            assert (got[row, head, :3] == x[row, head, :3].numpy()).all()


def test_fourier_attention_takes_the_same_room_however_long_the_middle_is() -> None:
    def waves_bytes(count: int) -> int:
        held = packed(entries(count), (FOURIER,))
        others = 2 * 3 * 4 * count * 3
        return sum(t.nbytes for t in held.tensors()) - others

    assert waves_bytes(40) == waves_bytes(400) == 2 * 3 * 9 * (4 * (16 + 2 + 3) + 2)


@pytest.mark.parametrize("balance", ["moments", "dual"])
def test_fourier_attention_follows_waves_and_goes_on_with_them(balance: Any) -> None:
    store = FourierAttention(states=16, room=20, exact_first=0, exact_last=0, balance=balance)
    time = torch.arange(80, dtype=torch.float64)
    series = torch.stack([torch.cos(2 * math.pi * turns * time / 80 + turns) for turns in range(1, 8)], -1)
    x = torch.cat([series, torch.randn(80, 5, generator=torch.Generator().manual_seed(1))], -1)[None, None]
    place = Place("keys", 0, 8, 1, 12)
    chain = Chain(place, (store,))
    at_once = chain.pack(x[:, :, :60])
    bit_by_bit: Packed = at_once
    for start in range(60, 80, 5):
        bit_by_bit = bit_by_bit.add(x[:, :, start : start + 5])
    in_one = at_once.add(x[:, :, 60:])
    assert torch.allclose(bit_by_bit.load(), in_one.load(), atol=1e-9)
    if balance == "dual":  # with the period full every wave comes back, but for what the mean was at first
        wrong = (in_one.load() - x)[..., :7]
        assert (wrong - wrong.mean(2, keepdim=True)).abs().max() < 1e-6
    longer = in_one.add(x[:, :, :1])
    assert longer.entries == 81, "beyond its period it begins anew"
    assert torch.isfinite(longer.load()).all()


@each_chain
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entries_stay_what_they_are(stores: tuple[Store, ...], kind: Kind, dtype: torch.dtype) -> None:
    x = entries(61).to(dtype)
    held = packed(x, stores, kind)
    back = held.load()
    assert (back.dtype, back.shape, held.entries) == (dtype, x.shape, 61)
    assert torch.isfinite(back).all()
    chosen = some(61, 45)
    fewer = held.take(chosen)
    assert torch.equal(fewer.load(), entries_at(back, chosen))
    more = fewer.add(x[:, :, :7])
    assert more.entries == 52
    assert torch.isfinite(more.load()).all()
    if not any(isinstance(store, FourierAttention) for store in stores):
        assert torch.equal(more.load()[:, :, :45], fewer.load())
    order = torch.tensor([1, 1, 0])
    near = max(1e-5, 8 * torch.finfo(dtype).eps)  # products of other shapes round otherwise
    assert torch.allclose(more.rows(lambda t: t[order]).load(), more.load()[order], atol=near)
    cut = more.take(torch.arange(50).expand(2, 3, -1))
    assert torch.allclose(cut.load(), more.load()[:, :, :50], atol=near)
    for tensor in cut.tensors():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "no slice keeps its base alive"


@each_chain
@each_kind
def test_a_row_is_stored_as_if_it_were_alone(stores: tuple[Store, ...], kind: Kind) -> None:
    x = entries(61)
    together = packed(x, stores, kind).add(x[:, :, :9]).load()
    for row in range(2):
        alone = packed(x[row : row + 1], stores, kind).add(x[row : row + 1, :, :9]).load()
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


def test_what_stores_leave_is_stored_by_the_next() -> None:
    x = entries(61)
    held = [
        sum(t.nbytes for t in packed(x, CHAINS[name]).tensors()) for name in ("mustafar", "mustafar+kivi")
    ]
    assert held[1] < held[0] < x.nbytes
    where = 2 * 3 * 61 * 2
    assert held[0] - where == 2 * 3 * 61 * 7 * 4
    assert held[1] - where == 2 * 3 * (61 * 7 + 2 * 8 * 7 * 4)
    place = Place("keys", 0, 1, 3, 12)
    names = [type(store).__name__ for store in Chain(place, CHAINS["all"]).stores]
    assert names == ["CSKV", "FourierAttention", "Mustafar", "Kivi"], "whatever order they are named in"
    window = Chain(place, (Kivi(group=8, exact_last=16), Mustafar(exact_last=5))).window
    assert (window.exact, window.step, window.first) == (5, 16, 16)


@pytest.mark.parametrize("row", [row.name for row in list_methods("kv") if row.stacks])
def test_identity_leaves_nothing_to_do(row: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "kivi": {"bits": 16},
        "mustafar": {"sparsity": 0.0},
        "cskv": {"density": 1.0},
        "fourier_attention": {"states": None},
    }
    store, acting = build_method("kv", row, options[row]), build_method("kv", row, {})
    for kind in KINDS:
        assert not store.acts(kind)
        assert acting.acts(kind)
        assert Chain(Place(kind, 0, 1, 2, 8), (store,)).stores == ()


def test_used_only() -> None:
    things, pointers = used_only(torch.tensor([[1, 1, 4], [0, 2, 3]]), 5)
    assert things.tolist() == [[1, 4, 0], [0, 2, 3]]
    assert pointers.tolist() == [[0, 0, 1], [0, 1, 2]]


def test_a_method_is_a_policy_and_stores() -> None:
    method = CacheMethod.of(Kivi(), SnapKV(keep_ratio=0.5), Mustafar())
    assert isinstance(method.policy, SnapKV)
    assert [type(store) for store in method.stores] == [Kivi, Mustafar]
    assert CacheMethod.of(method) == method
    assert isinstance(CacheMethod.of(Kivi()).policy, EveryEntry)
    with pytest.raises(ValueError, match="takes one policy, got SnapKV and StreamingLLM"):
        CacheMethod.of(SnapKV(), StreamingLLM())
    with pytest.raises(ValueError, match="each store once, got Kivi more than once"):
        CacheMethod.of(Kivi(bits=4), Kivi(bits=8))
    with pytest.raises(TypeError, match="got 'kivi'"):
        CacheMethod.of("kivi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need a policy beside them that chooses entries"):
        EveryEntry(keep_ratio=0.5)


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (Kivi, {"bits": 3}, "bits must be 2, 4, 8 or 16, got 3"),
        (Kivi, {"value_bits": True}, "value_bits must be 2, 4, 8 or 16, got True"),
        (Kivi, {"group": 0}, "group must be at least 1"),
        (Kivi, {"exact_last": 100}, "exact_last must be a multiple of group=32, or 0, got 100"),
        (Kivi, {"unrotated": 1}, "unrotated must be True or False"),
        (Mustafar, {"sparsity": 1.0}, "sparsity must be in"),
        (Mustafar, {"key_sparsity": -0.1}, "key_sparsity must be in"),
        (Mustafar, {"exact_last": -1}, "exact_last must be at least 0"),
        (CSKV, {"density": 0.0}, r"density must be in \(0, 1\]"),
        (CSKV, {"value_density": "half"}, "value_density must be a number"),
        (FourierAttention, {"states": 7}, "states must be even, a cosine and a sine each, got 7"),
        (FourierAttention, {"states": 0}, "states must be at least 2"),
        (FourierAttention, {"room": 0}, "room must be at least 1"),
        (FourierAttention, {"balance": "least"}, "unknown balance 'least'"),
        (FourierAttention, {"key_shares": (0.5, 0.5)}, "key_shares must be three numbers"),
        (FourierAttention, {"value_shares": [0.5, 1.0, 0.5]}, "value_shares must be in"),
    ],
)
def test_bad_options(cls: type[Store], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cls(**options)
