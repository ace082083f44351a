"""The language stages: answer all questions of a clip from its visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamprune.embedded.train.architecture import TOKENS_PER_SLICE, Architecture
from streamprune.embedded.train.context import context_labels
from streamprune.embedded.train.dropping import draw_keep, draw_tokens
from streamprune.embedded.train.loop import Student
from streamprune.embedded.train.packing import Packed, attention_mask, pack
from streamprune.embedded.train.samples import Diet, Sample, draw, plain
from streamprune.embedded.train.tower import object_labels, pixels
from streamprune.embedded.world.draw import COLOR_NAMES, KINDS
from streamprune.embedded.world.questions import Question

_WEIGHTS = {"dense": 0.2, "place": 0.2, "objects": 0.02, "context": 0.5}


@dataclass(frozen=True)
class Shown:
    """What the language model gets to see of clips.

    Attributes:
        visual: (clips, kept, channels) tokens.
        kept: (clips, kept) flat indices of them, over slices.
        positions: (axes, clips, columns).
        starts: position of the first word behind each clip.
    """

    visual: Tensor
    kept: NDArray[np.int64]
    positions: NDArray[np.int64]
    starts: tuple[int, ...]


def show(
    architecture: Architecture,
    visual: Tensor,
    kept: NDArray[np.int64],
    slots: Sequence[Sequence[int]],
    renumber: Sequence[bool] | None = None,
) -> Shown:
    """Give kept tokens their positions.

    Args:
        visual: (clips, kept, channels).
        kept: (clips, kept) flat indices of them, over slices.
        slots: time slot of every shown frame of each clip.
        renumber: whether the positions of a clip count 0, 1, 2, ... over what is left; default: of none.
    """
    anew = [False] * len(kept) if renumber is None else renumber
    places = [architecture.positions(*clip) for clip in zip(slots, kept, anew, strict=True)]
    starts = tuple(architecture.text_start(*clip) for clip in zip(places, anew, strict=True))
    return Shown(visual, kept, np.stack(places, 1), starts)


def answer_logits_and_states(
    architecture: Architecture, model: Any, shown: Shown, questions: Sequence[Sequence[Question]]
) -> tuple[Tensor, Tensor, Packed, tuple[Tensor, ...]]:
    """Logits at every scored column, their targets, the packing, and the visual tokens' states.

    The states (clips, kept, channels) are those before the first layer and after each.
    """
    packed = pack(questions, shown.positions.shape[-1], shown.starts, architecture.frame)
    device, opening = shown.visual.device, packed.opening
    words = model.get_input_embeddings()(packed.ids.to(device))
    visual = architecture.columns(model, shown.visual).to(words.dtype)
    inputs = torch.cat([words[:, :opening], visual, words[:, opening:]], 1)
    text = packed.positions.to(device).expand(architecture.axes, -1, -1)
    where = torch.from_numpy(shown.positions).to(device)
    positions = torch.cat([text[..., :opening], where, text[..., opening:]], -1)
    # A mask of another dtype than the scores makes their sum a hundred times slower on a CPU.
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else inputs.dtype
    outputs = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=attention_mask(packed, dtype).to(device),
        position_ids=positions[0] if architecture.axes == 1 else positions,
        use_cache=False,
        output_hidden_states=True,
    )
    hidden, last = outputs.last_hidden_state, opening + shown.visual.shape[1]
    states = tuple(layer[:, opening:last] for layer in outputs.hidden_states)
    hidden = torch.cat([hidden[:, :opening], hidden[:, opening + packed.visual :]], 1)
    scored = packed.targets.to(device) != -100
    return model.lm_head(hidden[scored]), packed.targets.to(device)[scored], packed, states


def answers(
    architecture: Architecture, model: Any, shown: Shown, questions: Sequence[Sequence[Question]]
) -> list[bool]:
    """Whether each question of each clip is answered exactly."""
    logits, targets, packed, _ = answer_logits_and_states(architecture, model, shown, questions)
    return exact_matches(logits, targets, questions, packed)


def exact_matches(
    logits: Tensor, targets: Tensor, questions: Sequence[Sequence[object]], packed: Packed
) -> list[bool]:
    """Whether every word of each answer and its end are the most likely ones, question by question."""
    right = (logits.argmax(-1) == targets).cpu()
    scored = packed.targets != -100
    owners = (packed.segments + 1000 * torch.arange(len(packed.segments))[:, None])[scored]
    results = []
    for row, asked in enumerate(questions):
        results += [bool(right[owners == 1000 * row + number].all()) for number in range(1, len(asked) + 1)]
    return results


def _dense_labels(samples: Sequence[Sample], architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Kind and colour label of every token of every sample, each (samples * slices * 36,)."""
    kinds, colors = [], []
    for sample in samples:
        coverage = architecture.per_slice(sample.coverage).reshape(len(sample.coverage), -1)
        best = coverage.argmax(0)
        background = coverage.max(0) < 0.12
        kind = np.array([KINDS.index(t.kind) for t in sample.clip.script.things])[best]
        color = np.array([COLOR_NAMES.index(t.color) for t in sample.clip.script.things])[best]
        kinds.append(np.where(background, len(KINDS), kind))
        colors.append(np.where(background, len(COLOR_NAMES), color))
    return torch.from_numpy(np.concatenate(kinds)), torch.from_numpy(np.concatenate(colors))


def _draw_shown(
    student: Student, tokens: Tensor, samples: Sequence[Sample], keep: int, rng: np.random.Generator
) -> Shown:
    """Let each clip keep ``keep`` of its ``tokens`` (clips, all, channels)."""
    architecture = student.architecture
    kept, renumber, slots = [], [], []
    for sample in samples:
        kept.append(draw_tokens(rng, architecture.per_slice(sample.coverage).max(0), keep))
        renumber.append(keep < tokens.shape[1] and rng.random() < architecture.renumber_share)
        choices = architecture.stretches
        stretch = choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]
        slots.append(tuple(stretch * slot for slot in sample.slots))
    index = torch.from_numpy(np.stack(kept))
    rows = index.to(tokens.device)[..., None].expand(-1, -1, tokens.shape[-1])
    return show(architecture, torch.gather(tokens, 1, rows), index.numpy(), slots, renumber)


def _frames(samples: Sequence[Sample], architecture: Architecture) -> Tensor:
    return pixels(np.concatenate([architecture.fill(s.images) for s in samples]))


def _visible(samples: Sequence[Sample]) -> NDArray[np.float32]:
    return object_labels(
        [tuple(t for t in s.clip.script.things if t.start <= f < t.stop) for s in samples for f in s.shown]
    )


def language_loss(
    student: Student, step: int, seed: int, count: int, diet: Diet, frozen: bool
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the answers, plus the small losses of the throw-away heads.

    Number of tokens and shape of the clips hang on ``step``, so that all workers have equal work.
    """
    architecture, model = student.architecture, student.model
    shared, rng = np.random.default_rng([4, diet.frames, step]), np.random.default_rng([3, seed])
    samples = draw(seed, count, diet, memory=bool(shared.random() < diet.memory_share))
    total = architecture.slices(diet.frames) * TOKENS_PER_SLICE
    keep = draw_keep(shared, total, diet.drop_share)
    images = _frames(samples, architecture).to(student.device)
    with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
        patches = architecture.patches(model, images)
    tokens = architecture.tokens(model, patches)
    kinds, colors = (labels.to(tokens.device) for labels in _dense_labels(samples, architecture))
    losses = {"dense": student.tokens.loss(tokens.flatten(0, 1), kinds, colors)}
    if architecture.placed_by_tower:
        losses["place"] = student.tokens.place_loss(tokens)
    if student.head is not None:
        present = torch.from_numpy(_visible(samples)).to(student.device)
        losses["objects"] = student.objects.loss(student.head(patches.detach()), present)
    shown = _draw_shown(student, tokens.reshape(count, total, -1), samples, keep, rng)
    logits, targets, _, states = answer_logits_and_states(
        architecture, model, shown, [s.questions for s in samples]
    )
    motions, scenes = context_labels(samples, shown.kept, architecture.slice_frames)
    losses["context"] = student.context.loss(states, motions.to(tokens.device), scenes.to(tokens.device))
    if student.places is not None:
        places = torch.from_numpy(shown.positions - len(architecture.frame.opening))
        losses["place"] = student.places.loss(states, places.to(tokens.device))
    losses["answer"] = nn.functional.cross_entropy(logits.float(), targets)
    parts = {name: float(loss.detach()) for name, loss in losses.items()}
    small = sum(weight * losses[name] for name, weight in _WEIGHTS.items() if name in losses)
    return losses["answer"] + small, parts | {"keep": keep / total}


def probe(student: Student, diet: Diet, clips: int, batch: int = 8) -> dict[str, float]:
    """Exact-match accuracy on held-out clips with all tokens, over all questions and per type."""
    architecture = student.architecture
    right: dict[str, list[bool]] = {}
    saliency: list[float] = []
    total = architecture.slices(diet.frames) * TOKENS_PER_SLICE
    for first in range(0, clips, batch):
        samples = [
            plain(900_000 + s, diet, "eval", "train" if s % 2 else "eval")
            for s in range(first, first + batch)
        ]
        patches = architecture.patches(student.model, _frames(samples, architecture).to(student.device))
        tokens = architecture.tokens(student.model, patches).reshape(batch, total, -1)
        every = np.tile(np.arange(total), (batch, 1))
        shown = show(architecture, tokens, every, [s.slots for s in samples])
        results = iter(answers(architecture, student.model, shown, [s.questions for s in samples]))
        for sample in samples:
            for question in sample.questions:
                right.setdefault(question.type, []).append(next(results))
        if student.head is not None:
            saliency.append(_recall(student.head.saliency(patches.float()), samples))
    figures = {"accuracy": float(np.mean([x for found in right.values() for x in found]))}
    if saliency:
        figures["salient_recall"] = float(np.mean(saliency))
    return figures | {name: float(np.mean(values)) for name, values in sorted(right.items())}


def _recall(saliency: Tensor, samples: Sequence[Sample]) -> float:
    """Share of brief objects with at least one token among the two most salient of a frame they are in."""
    scores = saliency.float().cpu().numpy().reshape(len(samples), -1, 36)
    found: list[bool] = []
    for row, sample in enumerate(samples):
        top = np.argsort(-scores[row], axis=1)[:, :2]
        hits = np.take_along_axis(sample.coverage, top[None].repeat(len(sample.coverage), 0), axis=2).max(
            (1, 2)
        )
        found += [
            bool(h > 0.2) for h, t in zip(hits, sample.clip.script.things, strict=True) if t.role != "main"
        ]
    return float(np.mean(found)) if found else 1.0
