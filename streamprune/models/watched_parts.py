"""Lets a method see what parts of decoder layers (attention, feed-forward) make of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.base import InLLMMethod, PartCall
from streamprune.models.prompt_rows import PromptRows

# a part, what entered it and what left it
Note = Callable[[int, str, torch.Tensor, torch.Tensor], None]


class WatchedParts:
    """What a method noted during one call, row by row.

    Args:
        method: is shown the parts.
    """

    def __init__(self, method: InLLMMethod) -> None:
        self._method = method
        # for each prompt of the batch, the rows of the call that each note is about, and the note
        self._notes: dict[int, dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]] = {}

    def note(
        self,
        layer: int,
        part: str,
        entered: torch.Tensor,
        left: torch.Tensor,
        prompts: Sequence[PromptRows | None],
    ) -> None:
        """Show the method what went through; None = a prompt that it need not know about.

        Args:
            entered, left: (batch, rows, width).
        """
        for number, prompt in enumerate(prompts):
            if prompt is None:
                continue
            own = prompt.states(entered[number]), prompt.states(left[number])
            with torch.no_grad():
                seen = self._method.watch(PartCall(layer, part, *own, prompt.visual))
            if len(seen) != len(prompt.rows):
                raise InvalidValueError(
                    f"{type(self._method).__name__}.watch must return ({len(prompt.rows)}, ...), one row for "
                    f"each that went through, got {tuple(seen.shape)}"
                )
            self._notes.setdefault(number, {})[layer, part] = prompt.rows, seen

    def of(self, number: int, prompt: PromptRows) -> dict[tuple[int, str], torch.Tensor]:
        """What was noted about the rows that are left of the ``number``-th prompt."""
        notes = self._notes.get(number, {})
        return {
            key: seen.to(prompt.rows.device)[torch.searchsorted(rows.to(prompt.rows.device), prompt.rows)]
            for key, (rows, seen) in notes.items()
        }


def check_parts(decoder: Any, parts: Sequence[tuple[int, str]], name: str) -> None:
    """Raise UnsupportedModelError unless the layers of ``decoder`` have the ``parts`` (layer, part)."""
    for number, part in parts:
        layer = decoder.layers[number]
        if part not in dict(layer.named_modules()):
            raise UnsupportedModelError(
                f"{name}: decoder layers of the kind {type(layer).__name__} have no part {part!r}, which "
                "this in_llm method watches; choose another method"
            )


def watch_parts(decoder: Any, parts: Sequence[tuple[int, str]], note: Note) -> Iterator[Any]:
    """Put hooks on ``parts`` of the layers, which tell ``note``; yields their handles."""
    for number, part in parts:
        hook = _hook(number, part, note)
        yield decoder.layers[number].get_submodule(part).register_forward_hook(hook, with_kwargs=True)


def _hook(number: int, part: str, note: Note) -> Callable[..., None]:
    def after_part(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entered = args[0] if args else kwargs["hidden_states"]
        note(number, part, entered, output[0] if isinstance(output, tuple) else output)

    return after_part
