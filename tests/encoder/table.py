"""Every encoder method that the contract is held against: one row per method or variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamprune.encoder.base import EncoderMethod
from streamprune.registry import build_method


@dataclass(frozen=True)
class Row:
    """One method in one form.

    Attributes:
        name: in the registry.
        nothing: options with which it changes nothing.
        options: of this form.
        counts: whether the number of tokens is known beforehand.
        frames_alone: whether no frame influences another.
        sums: whether a leaving token may be more than a mean.
    """

    name: str
    nothing: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    counts: bool = True
    frames_alone: bool = True
    sums: bool = False

    @property
    def id(self) -> str:
        """The name pytest shows."""
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}[{options}]" if options else self.name

    def build(self, **options: Any) -> EncoderMethod:
        """The method in this form, with more ``options``."""
        built: EncoderMethod = build_method("encoder", self.name, {**self.options, **options})
        return built


NONE, ALL, NEVER = {"removed": 0}, {"layer_keep_share": 1.0}, {"similarity_threshold": 1.5}
ROWS = (
    Row("tome", NONE),
    Row("tome", NONE, {"removed": 5, "inflection": -1.0}),
    Row("tome", NONE, {"removed": 5, "proportional": False}),
    Row("ppt", NONE, {"variance_threshold": 0.0}),
    Row("ppt", NONE, {"variance_threshold": 1.0}),
    Row("ppt", NONE),
    Row("gtp_vit", NONE, sums=True),
    Row("gtp_vit", NONE, {"removed": 3, "graph": "spatial"}, sums=True),
    Row("gtp_vit", NONE, {"removed": 3, "propagation": 0.0, "proportional": False}),
    Row("atc", ALL),
    Row("atc", ALL, {"layer_keep_share": 0.7, "linkage": "single", "proportional": False}),
    Row("saint", NEVER, {"similarity_threshold": 0.6, "min_similar": 2}, counts=False),
    Row("saint", NEVER, {"similarity_threshold": 0.6, "batch_mean": True}, counts=False, frames_alone=False),
    Row("saint", ALL, {"form": "graph", "layers": (1, 2)}),
    Row("flowcut", {"final_share": 1.0}, counts=False),
    Row("flowcut", {"final_share": 1.0}, {"batch_maximum": True}, counts=False, frames_alone=False),
    Row("zero_tprune", ALL),
    Row("zero_tprune", ALL, {"similar_share": 1.0, "layers": (0, 3)}),
    Row("token_transforming", ALL),
    Row("token_transforming", ALL, {"temperature": 1.0, "proportional": False}),
    Row("earlytom", NEVER, {"similarity_threshold": 0.5}, frames_alone=False),
    Row("earlytom", NEVER, {"similarity_threshold": 0.5, "as_released": False}, frames_alone=False),
)
