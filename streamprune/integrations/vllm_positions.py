"""Where the tokens of a pruned prompt stood before it was pruned. Knows nothing of vLLM.

vLLM asks a model for the positions of a prompt before it knows which video tokens stay, and once more when it
does. Of prompts whose videos come from its prefix cache it asks the first time only, so the text behind a
video must be right then already: it stands where it would behind the whole video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PromptMarks:
    """Ids that structure a prompt: before and after what is shown, and in the place of its tokens."""

    start: int
    end: int
    image: int
    video: int


@dataclass(frozen=True)
class VideoSpan:
    """A video in a pruned prompt, ``ids[offset:offset + length]``; ``frames`` of ``frame_tokens`` once."""

    offset: int
    length: int
    frames: int
    frame_tokens: int


@dataclass(frozen=True)
class WholePrompt:
    """A prompt before pruning.

    Attributes:
        ids: its tokens.
        columns: where in ``ids`` each token of the pruned prompt is; video tokens anywhere in their video.
        shifts: how much further on than in the pruned prompt begins what begins at each of its tokens.
    """

    ids: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)

    def _copy(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.shifts.append(len(self.ids) - len(self.columns))
            self.columns.append(len(self.ids))
            self.ids.append(token)


def whole_prompt(ids: Sequence[int], videos: Iterable[VideoSpan], *, video: int, start: int) -> WholePrompt:
    """Put back what pruning took out of ``ids``.

    Args:
        videos: in the order of the prompt, not overlapping.
        video: id of a video token.
        start: id of the mark before each frame. A video without any is one run of its tokens; of one with
            them, all that is left may stand behind the first mark.
    """
    whole = WholePrompt()
    done = 0
    for span in videos:
        whole._copy(ids[done : span.offset])
        done = span.offset + span.length
        inside = ids[span.offset : done]
        run_tokens = span.frame_tokens if start in inside else span.frames * span.frame_tokens
        run = len(whole.ids)  # where the run begins that video tokens are put into
        if start not in inside:
            whole.ids.extend([video] * run_tokens)
        shift, seen = run - len(whole.columns), 0
        for token in inside:
            whole.shifts.append(shift)
            if token == video:
                whole.columns.append(run + min(seen, run_tokens - 1))
                seen += 1
                continue
            whole.columns.append(len(whole.ids))
            whole.ids.append(token)
            if token == start:
                run, seen = len(whole.ids), 0
                whole.ids.extend([video] * run_tokens)
    whole._copy(ids[done:])
    return whole


def shown_spans(ids: Sequence[int], marks: PromptMarks) -> list[tuple[int, int]]:
    """Where features stand in the prompt ``ids``, pruned or not: (first, past the last) of all that is shown.

    A video of Qwen3-VL is text and frames in turn, each frame between marks of its own, all of them between
    two more. The features of its text come with it, so that it is one span; other spans are runs of tokens.
    """
    spans: list[tuple[int, int]] = []
    place, last = 0, len(ids) - 1
    while place <= last:
        if ids[place] in (marks.image, marks.video):
            stop = place
            while stop <= last and ids[stop] == ids[place]:
                stop += 1
        elif ids[place] == marks.start and place < last and _is_text(ids[place + 1], marks):
            place = stop = place + 1
            while stop < last and (ids[stop], ids[stop + 1]) != (marks.end, marks.end):
                stop += 1
            stop += 1  # the mark behind the last frame, and before that behind the video
        else:
            place += 1
            continue
        spans.append((place, stop))
        place = stop
    return spans


def _is_text(token: int, marks: PromptMarks) -> bool:
    return token not in (marks.start, marks.end, marks.image, marks.video)


def place_rows(
    positions: torch.Tensor,
    rows: Sequence[torch.Tensor],
    spans: Sequence[tuple[int, int]],
    computed: int,
) -> torch.Tensor:
    """Give rows their positions, where those of the text are right already.

    Args:
        positions: ``(3, tokens)`` of a prompt; not changed.
        rows: for each picture or video that a step computes, or its part, ``(rows, 3)`` positions counted
            from its own beginning.
        spans: of :func:`shown_spans`.
        computed: tokens of the prompt that earlier steps computed.

    Returns:
        ``(3, tokens)``.
    """
    placed = positions.clone()
    ahead = iter([span for span in spans if span[1] > computed])
    for own in rows:
        if not len(own):
            continue
        begin, _ = next(ahead)
        first = max(begin, computed)
        base = int(positions[:, begin - 1].max()) + 1 if begin else 0
        placed[:, first : first + len(own)] = own.T.to(placed) + base
    return placed
