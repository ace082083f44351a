"""The language stages: answer all questions of a clip from its visual tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from streamprune.embedded.train.context import LAYERS, context_labels
from streamprune.embedded.train.dropping import draw_keep, draw_tokens
from streamprune.embedded.train.loop import Student
from streamprune.embedded.train.packing import PREFIX_WORDS, Packed, attention_mask, clip_positions, pack
from streamprune.embedded.train.samples import Diet, Sample, draw, plain
from streamprune.embedded.train.tower import object_labels, patch_features, pixels, project
from streamprune.embedded.world.draw import COLOR_NAMES, KINDS

_DENSE_WEIGHT = 0.2
_OBJECTS_WEIGHT = 0.02
_CONTEXT_WEIGHT = 0.5
_RENUMBER_SHARE = 0.05


def answer_logits_and_states(
    model: LlavaOnevisionForConditionalGeneration, visual: Tensor, packed: Packed, places: NDArray[np.int64]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Logits at every scored column, their targets, and the visual tokens' hidden states after ``LAYERS``.

    ``visual`` is (clips, visual, 192) without the newline token.
    """
    device = visual.device
    words = model.get_input_embeddings()(packed.ids.to(device))
    newline = model.model.image_newline.expand(len(visual), 1, -1).to(visual.dtype)
    inputs = torch.cat(
        [words[:, :PREFIX_WORDS], visual.to(words.dtype), newline.to(words.dtype), words[:, PREFIX_WORDS:]], 1
    )
    positions = packed.positions.to(device)
    where = torch.from_numpy(places).to(device)
    positions = torch.cat([positions[:, :PREFIX_WORDS], where, positions[:, PREFIX_WORDS:]], 1)
    # A mask of another dtype than the scores makes their sum a hundred times slower on a CPU.
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else inputs.dtype
    outputs = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=attention_mask(packed, dtype).to(device),
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    hidden, last = outputs.last_hidden_state, PREFIX_WORDS + visual.shape[1]
    states = tuple(outputs.hidden_states[layer][:, PREFIX_WORDS:last] for layer in LAYERS)
    hidden = torch.cat([hidden[:, :PREFIX_WORDS], hidden[:, PREFIX_WORDS + packed.visual :]], 1)
    scored = packed.targets.to(device) != -100
    return model.lm_head(hidden[scored]), packed.targets.to(device)[scored], states


def answer_logits(
    model: LlavaOnevisionForConditionalGeneration, visual: Tensor, packed: Packed, places: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """The first two of ``answer_logits_and_states``."""
    return answer_logits_and_states(model, visual, packed, places)[:2]


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


def _dense_labels(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Kind and colour label of every token of every sample, each (samples * shown * 36,)."""
    kinds, colors = [], []
    for sample in samples:
        coverage = sample.coverage.reshape(len(sample.coverage), -1)
        best = coverage.argmax(0)
        background = coverage.max(0) < 0.12
        kind = np.array([KINDS.index(t.kind) for t in sample.clip.script.things])[best]
        color = np.array([COLOR_NAMES.index(t.color) for t in sample.clip.script.things])[best]
        kinds.append(np.where(background, len(KINDS), kind))
        colors.append(np.where(background, len(COLOR_NAMES), color))
    return torch.from_numpy(np.concatenate(kinds)), torch.from_numpy(np.concatenate(colors))


def _kept(
    samples: Sequence[Sample], keep: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices of the ``keep`` visual tokens each clip keeps, and their positions with the newline's."""
    tokens = len(samples[0].shown) * 36
    kept, places = [], []
    for sample in samples:
        chosen = draw_tokens(rng, sample.coverage.max(0), keep)
        renumber = keep < tokens and rng.random() < _RENUMBER_SHARE
        kept.append(chosen)
        places.append(clip_positions(sample.slots, chosen, renumber))
    return np.stack(kept), np.stack(places)


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
    shared, rng = np.random.default_rng([4, diet.frames, step]), np.random.default_rng([3, seed])
    samples = draw(seed, count, diet, memory=bool(shared.random() < diet.memory_share))
    keep = draw_keep(shared, diet.frames * 36, diet.drop_share)
    images = pixels(np.concatenate([s.images for s in samples])).to(student.device)
    with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
        patches = patch_features(student.model, images)
    tokens = project(student.model, patches)
    kinds, colors = _dense_labels(samples)
    dense = student.tokens.loss(tokens.flatten(0, 1), kinds.to(student.device), colors.to(student.device))
    place = student.tokens.place_loss(tokens)
    present = torch.from_numpy(_visible(samples)).to(student.device)
    objects = student.objects.loss(student.head(patches.detach()), present)
    kept, places = _kept(samples, keep, rng)
    visual = tokens.reshape(count, -1, tokens.shape[-1])
    visual = torch.gather(
        visual, 1, torch.from_numpy(kept).to(visual.device)[..., None].expand(-1, -1, visual.shape[-1])
    )
    packed = pack([s.questions for s in samples], places)
    logits, targets, states = answer_logits_and_states(student.model, visual, packed, places)
    motions, scenes = context_labels(samples, kept)
    context = student.context.loss(states, motions.to(student.device), scenes.to(student.device))
    answer = nn.functional.cross_entropy(logits.float(), targets)
    parts = {
        "answer": float(answer.detach()),
        "dense": float(dense.detach()),
        "objects": float(objects.detach()),
        "place": float(place.detach()),
        "context": float(context.detach()),
        "keep": keep / (diet.frames * 36),
    }
    small = _DENSE_WEIGHT * (dense + place) + _OBJECTS_WEIGHT * objects + _CONTEXT_WEIGHT * context
    return answer + small, parts


def probe(student: Student, diet: Diet, clips: int, batch: int = 8) -> dict[str, float]:
    """Exact-match accuracy on held-out clips with all tokens, over all questions and per type."""
    right: dict[str, list[bool]] = {}
    saliency: list[float] = []
    for first in range(0, clips, batch):
        samples = [
            plain(900_000 + s, diet, "eval", "train" if s % 2 else "eval")
            for s in range(first, first + batch)
        ]
        patches = patch_features(
            student.model, pixels(np.concatenate([s.images for s in samples])).to(student.device)
        )
        visual = project(student.model, patches).reshape(batch, -1, 192)
        every = np.arange(diet.frames * 36)
        places = np.stack([clip_positions(s.slots, every, False) for s in samples])
        packed = pack([s.questions for s in samples], places)
        logits, targets = answer_logits(student.model, visual, packed, places)
        results = iter(exact_matches(logits, targets, [s.questions for s in samples], packed))
        for sample in samples:
            for question in sample.questions:
                right.setdefault(question.type, []).append(next(results))
        saliency.append(_recall(student.head.saliency(patches.float()), samples))
    figures = {name: float(np.mean(values)) for name, values in sorted(right.items())}
    return {
        "accuracy": float(np.mean([x for found in right.values() for x in found])),
        "salient_recall": float(np.mean(saliency)),
        **figures,
    }


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
