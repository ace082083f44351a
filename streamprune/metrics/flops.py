"""Operations of the language model, from its configuration and the number of tokens.

A multiply-add counts as two operations (papers of this field often count it as one, and attention over all
pairs: their figures are then a little over half of ours). Per layer and token the projections take

    2 * width * (2 * query_width + 2 * key_value_width) + 6 * width * inner_width

and a token that sees ``n`` keys takes ``4 * query_width * n`` for scores and weighted sums. Attention is
causal: the i-th token of a prompt sees i keys. Where a method drops tokens inside the model, each layer has
a number of tokens of its own. The output head runs for one token a step: ``2 * width *
vocabulary``. Norms, rotations and the vision tower are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamprune.errors import InvalidValueError


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder-only language model with a gated feed-forward part."""

    layers: int
    width: int
    query_width: int
    key_value_width: int
    inner_width: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Any) -> DecoderShape:
        """Read a transformers text configuration."""
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        key_value_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            query_width=heads * head_width,
            key_value_width=key_value_heads * head_width,
            inner_width=config.intermediate_size,
            vocabulary=config.vocab_size,
        )

    @property
    def _per_token(self) -> int:
        projections = 2 * self.width * (2 * self.query_width + 2 * self.key_value_width)
        return projections + 6 * self.width * self.inner_width

    @property
    def _per_pair(self) -> int:
        return 4 * self.query_width

    @property
    def _head(self) -> int:
        return 2 * self.width * self.vocabulary

    def prefill_flops(self, prompt_tokens: int | Sequence[int], held: int | Sequence[int] = 0) -> int:
        """Operations until the first new token of a prompt of so many tokens, or of so many in each layer.

        ``held``: entries in the cache that they see besides each other.
        """
        total = self._head
        for tokens, before in zip(self._by_layer(prompt_tokens), self._by_layer(held), strict=True):
            total += tokens * self._per_token
            total += (tokens * before + tokens * (tokens + 1) // 2) * self._per_pair
        return total

    def decode_flops(
        self,
        prompt_tokens: int | Sequence[int],
        new_tokens: int,
        looked_at: Mapping[int, int] = MappingProxyType({}),
    ) -> int:
        """Operations for all new tokens after the first, which the prefill gives.

        ``looked_at``: by layer, the keys that these tokens saw, added up, where that is not all there were.
        """
        _check_count("new_tokens", new_tokens)
        steps = max(0, new_tokens - 1)
        total = steps * self._head
        for layer, tokens in enumerate(self._by_layer(prompt_tokens)):
            every = steps * tokens + steps * (steps + 1) // 2
            total += steps * self._per_token + looked_at.get(layer, every) * self._per_pair
        return total

    def _by_layer(self, prompt_tokens: int | Sequence[int]) -> Sequence[int]:
        each = [prompt_tokens] * self.layers if isinstance(prompt_tokens, int) else prompt_tokens
        if len(each) != self.layers:
            raise InvalidValueError(
                f"prompt_tokens must be one number, or one for each of {self.layers} layers, got {len(each)}"
            )
        for tokens in each:
            _check_count("prompt_tokens", tokens)
        return each


def _check_count(name: str, value: int) -> None:
    if value < 0:
        raise InvalidValueError(f"{name} must be 0 or more, got {value}")
