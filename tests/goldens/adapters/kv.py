"""Cache policies (kvpress, streaming-llm): kept entries of each head, and scores that mean something."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from streamprune.kv.base import Policy
from streamprune.kv.h2o import H2O
from streamprune.kv.infinipot_v import InfiniPotV
from streamprune.kv.keydiff import KeyDiff
from streamprune.kv.knorm import KNorm
from streamprune.kv.lagkv import LagKV
from streamprune.kv.pyramidkv import PyramidKV, layer_share
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.tova import TOVA
from streamprune.kv.view import PROMPT_TEXT, LayerView
from streamprune.ops.rotary import turned_further
from tests.goldens.case import Case


def _view(case: Case, policy: Policy) -> LayerView:
    """The whole recorded prompt in one call, with the queries the policy asks for."""
    keys, values = case.given("k")[None], case.given("v")[None]
    tokens = keys.shape[2]
    rows = policy.query_rows(tokens)
    queries = case.given("q")[None, :, tokens - rows :] if rows else None
    return LayerView(
        keys=keys,
        values=values,
        tokens=torch.arange(tokens).expand(keys.shape[:3]),
        new=tokens,
        seen=tokens,
        prompt=tokens,
        layer=case.hp.get("layer_idx", 0),
        depth=case.hp.get("num_layers", 1),
        queries=queries,
    )


def _replay(case: Case, policy: Policy, *, scored: slice | None = slice(None), state: bool = False) -> None:
    view = _view(case, policy)
    view = LayerView(**{**vars(view), "state": policy.observe(view)})
    if scored is not None:
        recorded = case.recorded("scores")
        assert recorded is not None
        limit = 2e-4 * float(np.abs(recorded).max())
        np.testing.assert_allclose(
            policy.score(view)[0, :, scored].numpy(), recorded[:, scored], atol=limit, rtol=0, err_msg=case.id
        )
    chosen = policy.choose(view, entry_bytes=1)
    assert chosen is not None
    if case.exact:
        case.same("kept", chosen[0])


def _budget(case: Case) -> dict[str, Any]:
    return {"keep_tokens": int(case.arrays["out_n_kept"])}


def replay_streaming(case: Case) -> None:
    _replay(case, StreamingLLM(sinks=case.hp["n_sink"], **_budget(case)), scored=None)


def replay_start_recent(case: Case) -> None:
    kept = case.recorded("kept")
    assert kept is not None
    for (start, recent, length, coming), expected in zip(case.arrays["in_rows"].tolist(), kept, strict=True):
        policy = StreamingLLM(sinks=start, keep_tokens=start + recent - max(0, coming))
        keys = torch.zeros(1, 1, length, 2)
        view = LayerView(
            keys=keys, values=keys, tokens=torch.arange(length)[None, None], new=1, seen=length, prompt=length
        )
        chosen = policy.choose(view, entry_bytes=1)
        actual = list(range(length)) if chosen is None else chosen[0, 0].tolist()
        assert actual == expected[expected >= 0].tolist(), (start, recent, length, coming)


def replay_knorm(case: Case) -> None:
    _replay(case, KNorm(**_budget(case)))


def replay_keydiff(case: Case) -> None:
    _replay(case, KeyDiff(**_budget(case)))


def replay_lagkv(case: Case) -> None:
    sinks, lag = case.hp["n_sink"], case.hp["lag_size"]
    length = case.hp["n"]
    whole = (length - sinks) // lag * lag
    # what always stays is 1 in the release, and above 1 here
    scored = slice(sinks, sinks + whole - lag) if length >= sinks + 2 * lag else slice(sinks, None)
    _replay(case, LagKV(sinks=sinks, lag=lag, **_budget(case)), scored=scored)


def replay_snapkv(case: Case) -> None:
    window = case.hp["window_size"]
    policy = SnapKV(window=window, kernel=case.hp["kernel_size"], **_budget(case))
    _replay(case, policy, scored=slice(0, -window))


def replay_tova(case: Case) -> None:
    _replay(case, TOVA(**_budget(case)), scored=slice(0, -1))


def replay_pyramidkv(case: Case) -> None:
    if "columns" in {name.removeprefix("in_") for name in case.arrays}:
        for row in case.arrays["out_table"].tolist():
            tokens, percent, window, beta, layers = row[:5]
            average = tokens * (1 - percent / 100)
            shares = [
                layer_share(average, tokens, window=window, beta=beta, layer=layer, layers=layers)
                for layer in (0, 1, layers // 2, layers - 1)
            ]
            assert shares == row[5:], row
        return
    hp = case.hp
    policy = PyramidKV(
        window=hp["window_size"],
        kernel=hp["kernel_size"],
        beta=float(hp["beta"]),
        keep_ratio=1 - hp["ratio"],
    )
    _replay(case, policy, scored=slice(0, -hp["window_size"]))


def replay_observed(case: Case) -> None:
    _replay(case, H2O(by_age=True, recent_share=0.0, **_budget(case)))


def replay_infinipot(case: Case) -> None:
    hp, kept = case.hp, case.recorded("kept")
    assert kept is not None
    system, per_frame = hp["system"], hp["token_per_frame"]
    policy = InfiniPotV(
        redundancy_share=hp["tar_ratio"],
        recent_share=hp["query_ratio"],
        adaptive_pooling=hp["adaptive_pooling"],
        keep_tokens=system + hp["keep_frames"] * per_frame,
    )
    video = torch.arange(hp["frames"] * per_frame)
    segments = torch.cat([torch.full((system,), PROMPT_TEXT), video // per_frame])
    cells = torch.cat([torch.full((system,), -1), video % per_frame])
    for layer, (keys, values) in enumerate(zip(case.given("k"), case.given("v"), strict=True)):
        heads, tokens, _ = keys.shape
        view = LayerView(
            keys=keys[None],
            values=values[None],
            tokens=torch.arange(tokens).expand(1, heads, tokens),
            new=tokens,
            seen=tokens,
            prompt=tokens,
            layer=layer,
            depth=hp["layers"],
            segments=segments.expand(1, heads, tokens),
            cells=cells.expand(1, heads, tokens),
            grid=(hp["grid_h"], hp["grid_w"]),
        )
        chosen = policy.choose(view, entry_bytes=1)
        assert chosen is not None
        np.testing.assert_array_equal(chosen[0].numpy(), kept[layer], err_msg=f"{case.id} layer {layer}")


def replay_rerotation(case: Case) -> None:
    width = case.hp["head_dim"]
    frequencies = case.hp["rope_theta"] ** (-torch.arange(0, width, 2).float() / width)
    kept = torch.from_numpy(case.arrays["in_kept"])
    keys = case.given("k").gather(1, kept[..., None].expand(-1, -1, width))
    case.close("keys", turned_further(keys, torch.arange(kept.shape[1]) - kept, frequencies))


ADAPTERS = {
    "infinipot_v": replay_infinipot,
    "kv_keydiff": replay_keydiff,
    "kv_knorm": replay_knorm,
    "kv_lagkv": replay_lagkv,
    "kv_observed_attention": replay_observed,
    "kv_pyramidkv": replay_pyramidkv,
    "kv_rerotation": replay_rerotation,
    "kv_snapkv": replay_snapkv,
    "kv_start_recent": replay_start_recent,
    "kv_streaming_llm": replay_streaming,
    "kv_tova": replay_tova,
}
