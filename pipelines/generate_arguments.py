"""What somebody calls ``model.generate`` with: what of it is refused, and what a shorter prompt changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError


class GenerateArguments:
    """The arguments of one call, by name.

    Args:
        model: whose generate is called.
        given: all of them.
    """

    def __init__(self, model: Any, given: dict[str, Any]) -> None:
        self.given = given
        self._configs = (given.get("generation_config"), model.generation_config)

    @classmethod
    def of(
        cls, model: Any, inputs: Any, generation_config: Any, given: Mapping[str, Any]
    ) -> GenerateArguments:
        """With the two that may come without a name."""
        named = {"input_ids": inputs, "generation_config": generation_config}
        return cls(model, {**{name: x for name, x in named.items() if x is not None}, **given})

    def setting(self, name: str) -> Any:
        """The generation setting ``name`` that counts."""
        for config in (self.given, *self._configs):
            found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
            if found is not None:
                return found
        return None

    def check_prompt(self) -> torch.Tensor:
        """The ids of the prompts; InvalidTypeError without any."""
        ids = self.given.get("input_ids")
        if not isinstance(ids, torch.Tensor):
            came = ", ".join(name for name in ("input_ids", "inputs_embeds") if name in self.given)
            raise InvalidTypeError(
                "input_ids must be given as a tensor (batch, length): they tell visual tokens from text, and "
                f"inputs_embeds alone do not; got {came or 'neither'}"
            )
        return ids

    def check_alone(self) -> None:
        """Refuse a second model whose guesses this one checks."""
        if self.given.get("assistant_model") is not None:
            raise InvalidValueError(
                "assistant_model reads the prompt too, and would get one that has lost tokens; leave it out"
            )

    def check_cached(self) -> None:
        """Refuse to read the prompt anew for every word."""
        if self.setting("use_cache") is False:
            raise InvalidValueError(
                "use_cache=False lets the model read the prompt anew for every word, from which tokens would "
                "be dropped each time; leave it out"
            )

    def check_growing_cache(self) -> None:
        """Refuse a cache whose layers are all as long from the beginning."""
        kind = self.setting("cache_implementation")
        if kind is not None and "static" in kind:
            raise InvalidValueError(
                f"cache_implementation={kind!r} cannot be had with an in_llm method, by which layers hold "
                "unequal numbers of tokens; leave it out"
            )

    def check_own_cache(self) -> None:
        """Refuse a kind of cache that is not ours."""
        kind = self.setting("cache_implementation")
        if kind is not None:
            raise InvalidValueError(
                f"cache_implementation={kind!r} cannot be had with a kv method, which brings a cache of its "
                "own; leave it out"
            )

    def check_whole(self) -> None:
        """Refuse a prompt in chunks."""
        chunk = self.setting("prefill_chunk_size")
        if chunk is not None:
            raise InvalidValueError(
                f"prefill_chunk_size={chunk} splits the prompt, and an in_llm method has to see it whole; "
                "leave it out"
            )

    def check_beams(self, *, least: int, why: str) -> None:
        """Refuse several answers at once for ``least`` prompts or more."""
        several = [name for name in ("num_beams", "num_return_sequences") if (self.setting(name) or 1) > 1]
        if several and len(self.check_prompt()) >= least:
            raise InvalidValueError(
                f"{' and '.join(several)} above 1 {why}; "
                + ("generate for one prompt at a time" if least > 1 else "leave it out")
            )

    def for_shorter(self, removed: int) -> dict[str, Any]:
        """What has to be given besides where prompts are ``removed`` tokens shorter.

        Lengths of prompt and answer together are meant for the whole prompt, and so is what a streamer shows.
        """
        found: dict[str, Any] = {}
        for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            length = self.setting(total)
            if length and self.setting(new) is None:
                found[total] = max(length - removed, 1 if total == "max_length" else 0)
        streamer = self.given.get("streamer")
        if streamer is not None:
            found["streamer"] = _WholePrompt(streamer, self.check_prompt())
        return found


class _WholePrompt:
    """Shows a streamer the whole prompt in place of the one that generate saw."""

    def __init__(self, streamer: Any, ids: torch.Tensor) -> None:
        self._streamer = streamer
        self._ids: torch.Tensor | None = ids.cpu()

    def put(self, value: torch.Tensor) -> None:
        if self._ids is not None:
            value, self._ids = self._ids, None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()


def with_prompt(out: Any, ids: torch.Tensor, short: int) -> Any:
    """What generate gave for prompts of ``short`` tokens, with the whole ones ``ids`` in front."""
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    prompts = ids.repeat_interleave(len(sequences) // len(ids), 0)
    whole = torch.cat([prompts, sequences[:, short:]], 1)
    if isinstance(out, torch.Tensor):
        return whole
    out.sequences = whole
    return out
