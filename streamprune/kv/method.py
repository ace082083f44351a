"""A policy and the stores that hold what it keeps, as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.kv.base import Policy
from streamprune.kv.store import Store, check_chain
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class EveryEntry(Policy):
    """Keep every entry: the policy of stores that are named without one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.keeps_all:
            raise InvalidValueError(
                "stores hold every entry in less room; keep_ratio, keep_tokens and keep_bytes need a policy "
                "beside them that chooses entries, e.g. 'snapkv+kivi'"
            )

    def score(self, view: LayerView) -> torch.Tensor:
        """All alike."""
        return torch.zeros(view.tokens.shape, device=view.keys.device)


@dataclass(frozen=True)
class CacheMethod:
    """What is done to a key-value cache.

    Attributes:
        policy: which entries stay.
        stores: how the older ones of them are held; none = as they came.
    """

    policy: Policy
    stores: tuple[Store, ...] = ()

    @classmethod
    def of(cls, *parts: Policy | Store | CacheMethod) -> CacheMethod:
        """Stores, and a policy if not every entry stays, in any order.

        Raises InvalidTypeError for anything else, InvalidValueError for two policies or a store twice.
        """
        policies: list[Policy] = []
        stores: list[Store] = []
        for part in parts:
            if isinstance(part, CacheMethod):
                policies.append(part.policy)
                stores += part.stores
            elif isinstance(part, Policy):
                policies.append(part)
            elif isinstance(part, Store):
                stores.append(part)
            else:
                raise InvalidTypeError(
                    "a cache takes a streamprune.kv.base.Policy and instances of streamprune.kv.store.Store, "
                    f"got {part!r}"
                )
        if len(policies) > 1:
            names = " and ".join(type(policy).__name__ for policy in policies)
            raise InvalidValueError(f"a cache takes one policy, got {names}; stores can stand beside it")
        check_chain(stores)
        return cls(policies[0] if policies else EveryEntry(), tuple(stores))
