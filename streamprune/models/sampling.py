"""How the next word of an answer is chosen, and where an answer ends. Importing it needs no torch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from streamprune.checks import check_count, check_number, check_share
from streamprune.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    import torch

_SEEDS = 2**63
_COLDEST, _HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Sampling:
    """The most likely word every time, or words drawn by their likelihood.

    Args:
        temperature: 0 always takes the most likely word; above, in [0.01, 100], words are drawn: below 1
            likely ones more often, above 1 less often than the model means it.
        top_p: draw only among the most likely words that together have this share of the likelihood, in
            (0, 1].
        top_k: draw only among so many words.
        repetition_penalty: in [0.1, 10]; above 1 words that stand in the prompt or the answer become less
            likely. None is what the checkpoint asks for, mostly 1.
        seed: from 0, below 2**63: the same answer every time. None draws another one each time.
        stop: texts at which the answer ends, before them.

    Drawing has random numbers of its own, the same on every device: those of torch are not touched, and
    answers of a batch are drawn as if each were alone.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, _HOTTEST)
        if 0 < self.temperature < _COLDEST:
            raise InvalidValueError(
                f"temperature must be 0 (the most likely word) or in [{_COLDEST:g}, {_HOTTEST:g}], got "
                f"{self.temperature!r}"
            )
        if self.top_p is not None:
            check_share("top_p", self.top_p)
        if self.top_k is not None:
            check_count("top_k", self.top_k)
        if self.repetition_penalty is not None:
            check_number("repetition_penalty", self.repetition_penalty, 0.1, 10)
        if self.seed is not None:
            check_count("seed", self.seed, least=0)
            if self.seed >= _SEEDS:
                raise InvalidValueError(f"seed must be below 2**63, got {self.seed}")
        narrowed = [name for name in ("top_p", "top_k") if getattr(self, name) is not None]
        if narrowed and not self.temperature:
            raise InvalidValueError(
                f"{' and '.join(narrowed)} narrow what words are drawn from, and at temperature 0 none is "
                "drawn: give temperature=, e.g. 1.0"
            )

    @classmethod
    def read(
        cls,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
        repetition_penalty: float | None,
        seed: int | None,
        stop: object,
    ) -> Self:
        """As a user gives them: ``stop`` is one text, several, or None, see :func:`read_stop`."""
        return cls(temperature, top_p, top_k, repetition_penalty, seed, read_stop(stop))

    def processors(self, rows: int) -> list[Any]:
        """What ``generate`` does to the likelihoods of ``rows`` answers before it takes the best word."""
        if not self.temperature:
            return []
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        found: list[Any] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k is not None:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None:
            found.append(TopPLogitsWarper(float(self.top_p)))
        return [*found, _Draw([self._seed() for _ in range(rows)])]

    def _seed(self) -> int:
        return secrets.randbelow(_SEEDS) if self.seed is None else self.seed


GREEDY = Sampling()


def read_stop(stop: object) -> tuple[str, ...]:
    """One text, or each of several, at which an answer ends; None is none."""
    if stop is None:
        return ()
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InvalidTypeError(f"stop must be a text or a list of texts, got {stop!r}")
    if not all(texts):
        raise InvalidValueError("stop must not hold an empty text, with which every answer would end at once")
    return tuple(texts)


class _Draw:
    """Adds noise after which the largest score belongs to a word drawn by the likelihoods.

    The largest of ``score - log(E)`` with independent exponential E is at a word with probability
    softmax(score): drawing and the most likely word share one way through ``generate``.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        noise = torch.stack(
            [torch.empty(scores.shape[-1]).exponential_(generator=one) for one in self._generators]
        )
        smallest = torch.finfo(noise.dtype).tiny
        return scores - noise.clamp_min(smallest).log().to(scores)
