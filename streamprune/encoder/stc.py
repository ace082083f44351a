"""STC, the cacher: of a frame like the one before only the patches that changed go through the tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number, check_share
from streamprune.encoder.base import TowerMethod
from streamprune.errors import UnknownNameError
from streamprune.ops.selection import lowest

Choice = Literal["keys", "pixels"]

# frames from one reference to the next where the user does not say
_INTERVALS: dict[Choice, int] = {"keys": 2, "pixels": 32}


@dataclass(frozen=True, kw_only=True)
class STCCacher(TowerMethod):
    """Encode a reference frame in full, and of the frames after it what is no longer as it was.

    A reference leaves its keys, values and outputs in every layer. What a later frame does not recompute is
    read from there; what it does recompute attends to all keys and values, the old ones among the new.

    ``choose="keys"``, as released: each layer computes the keys of all tokens and recomputes the constant
    share of them whose keys are least like the reference's. What stays takes the reference's attention and
    feed-forward outputs, on top of its own residual. The reference stays what it is until the next one.

    ``choose="pixels"``, ours: the patches whose picture changed are recomputed in every layer, none when none
    did; the others are what they were. What is recomputed replaces what was remembered of these patches, so
    that something new in a still picture is paid for once. A patch is held against the picture it was last
    computed from: small changes add up until they count. A busy frame is encoded in full, as a reference.

    Either way a reference comes at least every ``interval`` frames, and ends whatever had drifted apart.

    Args:
        update_ratio: share of the tokens that each layer recomputes, in (0, 1], at least one; with "keys".
        interval: frames from one reference to the next; None = 2 with "keys", 32 with "pixels". Of the
            published examples one has 4.
        choose: see above.
        reference_similarity: with "keys": a frame whose keys in the first layer have a lower mean cosine
            similarity to the reference's becomes a reference; None = never, as released.
        pixel_change: with "pixels": root mean square difference of a patch's colours, which lie in [0, 1],
            above which it has changed; what a camera's noise alone does is to be below it.
        full_above: with "pixels": share of changed patches above which a frame becomes a reference.

    Source: arXiv 2512.00891 and its released cacher. Differences: frames are counted from the reference
    before and from the stream's beginning, where the release counts calls over all videos; equally similar
    keys recompute the lower token.
    """

    update_ratio: float = 0.25
    interval: int | None = None
    choose: Choice = "keys"
    reference_similarity: float | None = None
    pixel_change: float = 0.04
    full_above: float = 0.6

    def __post_init__(self) -> None:
        check_share("update_ratio", self.update_ratio)
        if self.choose not in get_args(Choice):
            raise UnknownNameError.among("choose of stc", self.choose, get_args(Choice))
        if self.interval is not None:
            check_count("interval", self.interval)
        if self.reference_similarity is not None:
            check_number("reference_similarity", self.reference_similarity, -1, 1)
        check_number("pixel_change", self.pixel_change, 0, 1)
        check_number("full_above", self.full_above, 0, 1)

    @property
    def max_age(self) -> int:
        """``interval`` written out."""
        return _INTERVALS[self.choose] if self.interval is None else self.interval

    def expired(self, age: int | None) -> bool:
        """Whether a frame that comes ``age`` frames after a reference is to be one; None = there is none."""
        return age is None or age >= self.max_age

    def count(self, tokens: int) -> int:
        """Of how many of a frame's ``tokens`` each layer recomputes with "keys"."""
        return max(1, share_of(tokens, self.update_ratio, rounding="truncate"))

    def least_alike(self, similarity: torch.Tensor) -> torch.Tensor:
        """(count,) int64 ascending: tokens to recompute, by the (tokens,) ``similarity`` of their keys."""
        return lowest(similarity, self.count(len(similarity))).sort().values

    def unlike(self, similarity: torch.Tensor) -> bool:
        """Whether the (tokens,) ``similarity`` of the first layer's keys makes a frame a reference."""
        limit = self.reference_similarity
        return limit is not None and float(similarity.mean()) < limit

    def busy(self, changed: torch.Tensor) -> bool:
        """Whether the (patches,) bool ``changed`` are too many to reuse the others."""
        return int(changed.sum()) > self.full_above * len(changed)


def key_similarity(keys: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(tokens,) float32: cosine of each token's key, all heads in a row, to the reference's.

    Args:
        keys, reference: (tokens, width). A key of length 0 is like nothing: 0.
    """
    return torch.nn.functional.cosine_similarity(keys.float(), reference.float(), dim=-1)


def picture_change(patches: torch.Tensor, remembered: torch.Tensor) -> torch.Tensor:
    """(patches,) float32: root mean square difference of (patches, values) colours."""
    difference = patches.float() - remembered.float()
    return difference.square_().mean(-1).sqrt_()
