"""What the tasks of this folder ask about clips of the embedded world, and how answers are judged."""

from __future__ import annotations

from typing import Any

AGAIN = "is that so?"


def doc_to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The clip, then the question."""
    parts = [{"type": "video", "url": document["video"]}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": parts}]


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the answer is the expected word."""
    return {"accuracy": float(results[0].strip().lower() == document["answer"])}


def rounds_to_messages(
    document: dict[str, Any],
    round_idx: int | None = None,
    previous_output: list[str] | None = None,
    previous_round_info: Any = None,
) -> Any:
    """The question, and after its answer whether that is so."""
    first = doc_to_messages(document)
    if round_idx is None or not previous_output:
        return first
    told = {"role": "assistant", "content": [{"type": "text", "text": previous_output[0]}]}
    again = {"role": "user", "content": [{"type": "text", "text": AGAIN}]}
    return ([*first, told, again], round_idx > 1, previous_output, previous_round_info)


def process_rounds(document: dict[str, Any], results: Any) -> dict[str, float]:
    """How often the model answered."""
    rounds = results[0] if isinstance(results[0], list) else results
    return {"rounds": float(len(rounds))}
