"""One prompt about several videos, put together from a prompt about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.models.chat_template import text_ids, video_prompt_text
from streamprune.models.prompt import Prompt


@dataclass(frozen=True)
class _Text:
    """Ids that the chat template writes around the videos.

    Attributes:
        before: the first video. between: each two of them. after: the last, with the question.
    """

    before: list[int]
    between: list[list[int]]
    after: list[int]


def joint_prompt(family: VideoFamily, question: str, prompts: Sequence[Prompt]) -> Prompt:
    """What the stock template writes for all videos before ``question``.

    A video begins where the text before it ends; what it holds stays in the same places to each other.

    Args:
        prompts: for ``question`` and each video alone.

    Raises UnsupportedModelError where a family writes several videos otherwise.
    """
    if not family.several_videos:
        raise UnsupportedModelError(
            f"{family.model_type} models cannot be shown several videos in one prompt here; ask about each"
        )
    text = _text(family, question, len(prompts))
    head, tail = len(text.before), len(text.after)
    for prompt in prompts:
        ids = prompt.input_ids[0].tolist()
        if ids[:head] != text.before or ids[len(ids) - tail :] != text.after:
            raise _otherwise(family)
    ids_of, places_of, columns, length = [], [], [], 0
    shift = prompts[0].position_ids.new_zeros(1)
    for number, prompt in enumerate(prompts):
        last = number == len(prompts) - 1
        # the first brings what stands before it, the last what stands behind it
        begin, end = (0 if number == 0 else head), len(prompt) - (0 if last else tail)
        ids_of.append(prompt.input_ids[:, begin:end])
        places_of.append(prompt.position_ids[..., begin:end] + shift)
        columns.append(prompt.kept_columns + length - begin)
        length += end - begin
        if last:
            break
        between = prompt.input_ids.new_tensor([text.between[number]], dtype=torch.int64)
        first = prompt.position_ids[..., end : end + 1] + shift
        ids_of.append(between)
        places_of.append(first + torch.arange(between.shape[1], device=between.device))
        length += between.shape[1]
        # the next one begins here, and counts from what stands before it
        shift = shift + prompt.position_ids[..., end : end + 1] + between.shape[1] - head
    return Prompt(
        input_ids=torch.cat(ids_of, 1),
        position_ids=torch.cat(places_of, -1),
        modality=prompts[0].modality,
        visual=_together([prompt.visual for prompt in prompts]),
        kept_columns=torch.cat(columns),
        full_tokens=sum(prompt.full_tokens - head - tail for prompt in prompts)
        + head
        + tail
        + sum(map(len, text.between)),
        deepstack=tuple(map(torch.cat, zip(*(prompt.deepstack for prompt in prompts), strict=True))),
    )


def _text(family: VideoFamily, question: str, videos: int) -> _Text:
    mark, template = family.video_mark(), family.turn_template()
    alone = video_prompt_text(family.tokenizer, question, template).split(mark)
    parts = video_prompt_text(family.tokenizer, question, template, videos=videos).split(mark)
    if len(alone) != 2 or len(parts) != videos + 1 or [parts[0], parts[-1]] != alone:
        raise _otherwise(family)
    ids = [text_ids(family.tokenizer, part) if part else [] for part in parts]
    return _Text(ids[0], ids[1:-1], ids[-1])


def _together(visual: Sequence[Any]) -> Any:
    """All rows after one another, in the form of those of one video."""
    if isinstance(visual[0], torch.Tensor):
        return torch.cat(list(visual), 1)
    return type(visual[0])([torch.cat([rows for one in visual for rows in one])])


def _otherwise(family: VideoFamily) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the chat template of {family.checkpoint.name!r} does not write several videos one after the other "
        "as it writes one; ask about each"
    )
