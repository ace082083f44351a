"""Memories that are one store of tokens, all of which every frame and every answer attends to."""

from __future__ import annotations

import torch

from streamprune.cache.context import Context, GapRule
from streamprune.cache.kv_memory import KvMemory
from streamprune.cache.memory import Room
from streamprune.cache.token_store import TokenContext, TokenStore


class TokenMemory(KvMemory):
    """The head of the prompt and ``store``."""

    def __init__(self, room: Room, gap: GapRule, store: TokenStore) -> None:
        super().__init__(room, gap, {"mid": store})
        self._store = store

    def context(self) -> TokenContext:
        """The head of the prompt and everything held."""
        return TokenContext(self.head, self._store, self.gap, self.room.rotation)

    def recall(self, queries: torch.Tensor | None) -> Context:
        """Everything; whatever was asked."""
        return self.context()
