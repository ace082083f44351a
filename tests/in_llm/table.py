"""Every in-LLM method with options that make it act in a model of four layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamprune.in_llm.base import InLLMMethod
from streamprune.registry import build_method


@dataclass(frozen=True)
class Row:
    """One method with its options.

    Attributes:
        name: in the registry.
        options: besides the budget.
        merges: what goes on is made of several rows, so that no masking of keys equals it.
        decodes: acts at the steps of decoding alone, so that all layers hold everything.
        returns: dropped rows come back further up, so that no masking of keys equals it.
        floor: what stays of the test's 24 tokens at least, however small the budget.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    merges: bool = False
    decodes: bool = False
    returns: bool = False
    floor: int = 1

    @property
    def id(self) -> str:
        """The name pytest shows."""
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    def build(self, **budget: Any) -> InLLMMethod:
        """The method with a budget."""
        built: InLLMMethod = build_method("in_llm", self.name, {**self.options, **budget})
        return built


ROWS = (
    Row("fastv"),
    Row("fastv", {"layer": 1}),
    Row("pyramiddrop"),
    Row("pyramiddrop", {"layers": (1, 3)}),
    Row("framefusion", {"similarity": 0.95}, merges=True),
    Row("framefusion", {"similarity": 1.0}),
    Row("holitom", merges=True),
    Row("dart", floor=4),
    Row("dart", {"layer": 1}, floor=4),
    Row("dycoke", decodes=True),
    Row("feather"),
    Row("feather", {"layers": (2, 3), "stride": None}),
    Row("prunevid"),
    Row("prunevid", {"layer": 2, "as_released": False}),
    Row("aim"),
    Row("aim", {"layers": (1, 3)}),
    Row("vscan"),
    Row("vscan", {"layer": 3, "rotated": False}),
    Row("todre", {"threshold": 1.0}),
    Row("todre", {"threshold": 1.0, "layer": 2}),
    Row("sparsevlm", merges=True),
    Row("sparsevlm", {"layers": (1, 3), "recycle": False}),
    Row("flashvid"),
    Row("adaptinfer"),
    Row("adaptinfer", {"layers": (1, 3), "words": "received"}),
    Row("btp"),
    Row("btp", {"layers": (1, 2, 3)}),
    Row("catp"),
    Row("catp", {"layer": 2, "query_image": True}),
    Row("metok"),
    Row("metok", {"layers": (1, 2, 3)}),
    Row("transprune"),
    Row("transprune", {"layers": (1, 2, 3), "absolute": True}),
    Row("coremat"),
    Row("coremat", {"layer": 3, "active_share": 0.5, "core_share": 0.5}),
    Row("vla_pruner", {"window": 0}),
    Row("vla_pruner", {"window": 0, "layer": 2, "rows": "all"}),
    Row("safewatch"),
    Row("safewatch", {"policy_sizes": (2, 1), "fill": True}),
    Row("star"),
    Row("star", {"layer": 1}),
    Row("sliminfer"),
    Row("sliminfer", {"layers": (1, 3), "unit_size": 5}),
    Row("spatten"),
    Row("spatten", {"layers": (2, 3)}),
    Row("lvlm_csp", returns=True),
    Row("lvlm_csp", {"layers": (1, 3), "coarse_share": 0.5}, returns=True),
    Row("lazyllm"),
    Row("lazyllm", {"layers": (2,)}),
)
