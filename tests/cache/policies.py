"""Every policy, with options that suit a prompt of a few dozen tokens."""

from __future__ import annotations

from typing import Any

import pytest

from streamprune.kv.a2sf import A2SF
from streamprune.kv.base import Policy
from streamprune.kv.expected_attention import ExpectedAttention
from streamprune.kv.h2o import H2O
from streamprune.kv.infinipot_v import InfiniPotV
from streamprune.kv.keydiff import KeyDiff
from streamprune.kv.knorm import KNorm
from streamprune.kv.kvcrush import KVCrush
from streamprune.kv.kvzip import KVzip
from streamprune.kv.lagkv import LagKV
from streamprune.kv.metok import METokCache
from streamprune.kv.plphp import PLPHP
from streamprune.kv.pyramidkv import PyramidKV
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.tova import TOVA
from streamprune.kv.vatp import VATP
from streamprune.kv.zeromerge import ZeroMerge

POLICIES: list[tuple[type[Policy], dict[str, Any]]] = [
    (StreamingLLM, {}),
    (KNorm, {}),
    (KeyDiff, {}),
    (LagKV, {"sinks": 2, "lag": 4}),
    (SnapKV, {"window": 4}),
    (TOVA, {}),
    (KVCrush, {"window": 4}),
    (PyramidKV, {"window": 2, "beta": 4.0}),
    (H2O, {}),
    (A2SF, {"forgetting": 0.9}),
    (VATP, {"sinks": 2}),
    (InfiniPotV, {"adaptive_pooling": True}),
    (ExpectedAttention, {"future": 16, "sinks": 2}),
    (KVzip, {"part": 15}),
    (METokCache, {"num_cuts": 1}),
    (PLPHP, {"attentive": 0.0, "indifferent": 0.0}),
    (ZeroMerge, {"merged_entries": 2}),
]
# policies that leave what they keep as it was
MASKING = [(cls, options) for cls, options in POLICIES if not cls.merges]
# policies whose choice in a padded row is that of the row alone
_OF_THE_WHOLE_BATCH = (LagKV, InfiniPotV, PLPHP, METokCache, KVzip)
PADDING = [(cls, options) for cls, options in POLICIES if cls not in _OF_THE_WHOLE_BATCH]


def ids_of(policies: list[tuple[type[Policy], dict[str, Any]]]) -> list[str]:
    return [f"{cls.__name__}{''.join(map(str, options))}" for cls, options in policies]


each_policy = pytest.mark.parametrize(("cls", "options"), POLICIES, ids=ids_of(POLICIES))
