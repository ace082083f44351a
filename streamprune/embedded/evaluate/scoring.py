"""Answering the world's questions with an embedded model, from all or from some of a clip's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from streamprune.embedded.evaluate.oracle import oracle
from streamprune.embedded.train.architecture import TOKENS_PER_SLICE, Architecture
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.train.language import answers, show
from streamprune.embedded.train.pooling_head import PoolingHead, load_head
from streamprune.embedded.train.tower import pixels
from streamprune.embedded.world import Clip, Question
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.question_signals import with_question
from streamprune.models.signals import Signals
from streamprune.reduce import reduce_tokens
from streamprune.registry import get_method
from streamprune.tokens import QUESTION_SIGNALS, VisualTokens

SIDE = 6
CELLS = TOKENS_PER_SLICE


@dataclass(frozen=True)
class Examinee:
    """A loaded model with its pooling head (None where it has none).

    ``family`` is the same model behind the verbs of the package.
    """

    model: Any
    head: PoolingHead | None
    folder: Path
    family: VideoFamily
    architecture: Architecture


@dataclass(frozen=True)
class Seen:
    """A clip after the tower: tokens (slices, 6, 6, 192) and saliency (slices, 6, 6).

    ``coverage`` (things, slices, 36) is that of every token by each thing; ``signals`` computes what a method
    needs when it is first asked.
    """

    clip: Clip
    tokens: Tensor
    saliency: Tensor
    coverage: NDArray[np.float32]
    signals: Signals


def load(folder: Path) -> Examinee:
    """Load model and pooling head as any other Hugging Face folder."""
    family = load_model(folder, device="cpu", dtype="float32")
    architecture = ARCHITECTURES[family.model_type]
    head = architecture.pooling_head()
    return Examinee(
        family.model, None if head is None else load_head(folder, head), folder, family, architecture
    )


@torch.no_grad()
def look(examinee: Examinee, clip: Clip, frames: NDArray[np.uint8] | None = None) -> Seen:
    """Encode a clip; ``frames`` replaces its pixels by damaged ones."""
    architecture, family = examinee.architecture, examinee.family
    images = pixels(architecture.fill(clip.frames if frames is None else frames))
    patches = architecture.patches(examinee.model, images)
    tokens = architecture.tokens(examinee.model, patches).reshape(len(patches), SIDE, SIDE, -1)

    def late(names: Sequence[str]) -> tuple[Mapping[str, Tensor], float]:
        return family.encode(images, names).signals, 0.0

    if examinee.head is None:
        first = dict(late(["saliency"])[0])
    else:
        first = {
            "saliency": examinee.head.saliency(patches).reshape(-1, SIDE, SIDE),
            "frame_features": examinee.head(patches),
        }
    covered = architecture.per_slice(clip.coverage.reshape(len(clip.script.things), -1, CELLS))
    return Seen(clip, tokens, first["saliency"], covered, family.signals(first, late))


@torch.no_grad()
def answered(
    architecture: Architecture,
    model: Any,
    questions: Sequence[Question],
    num_frames: int,
    index: NDArray[np.int64],
    features: Tensor,
) -> list[bool]:
    """Whether each question is answered exactly from ``features`` (kept, 192) at flat ``index``."""
    shown = show(architecture, features[None], index[None], [range(num_frames)])
    return answers(architecture, model, shown, [questions])


def marks(examinee: Examinee, seen: Seen, index: NDArray[np.int64], features: Tensor) -> list[bool]:
    """Whether each question is answered exactly from ``features`` (kept, 192) at flat ``index``."""
    clip = seen.clip
    return answered(examinee.architecture, examinee.model, clip.questions, clip.num_frames, index, features)


def full_marks(examinee: Examinee, seen: Seen) -> list[bool]:
    """Marks with all tokens."""
    flat = seen.tokens.flatten(0, 2)
    return marks(examinee, seen, np.arange(len(flat)), flat)


def blind_marks(examinee: Examinee, seen: Seen) -> list[bool]:
    """Marks without a single visual token."""
    return marks(examinee, seen, np.arange(0), seen.tokens.flatten(0, 2)[:0])


def reduced_marks(examinee: Examinee, seen: Seen, method: str, keep_ratio: float) -> tuple[list[bool], float]:
    """Marks after a reduction and the number of tokens it really kept, averaged over questions.

    ``method`` is a pre-LLM method of the registry or ``oracle``.
    """
    if method == "oracle":
        flat = seen.tokens.flatten(0, 2)
        index = oracle(seen.coverage, max(1, round(keep_ratio * len(flat))))
        return marks(examinee, seen, index, flat[torch.from_numpy(index)]), len(index)
    options: dict[str, Any] = {"seed": seen.clip.seed} if method == "random" else {}
    found: list[bool] = []
    kept: list[int] = []
    for questions, signals in _views(examinee, seen, get_method("pre_llm", method).needs):
        reduction = reduce_tokens(seen.tokens, method, keep_ratio=keep_ratio, signals=signals, **options)
        # rows that stand for no token take the last place, as in a prompt
        index = torch.where(reduction.index < 0, reduction.grid.tokens - 1, reduction.index).numpy()
        found += answered(
            examinee.architecture,
            examinee.model,
            questions,
            seen.clip.num_frames,
            index.astype(np.int64),
            reduction.features,
        )
        kept.append(len(reduction))
    return found, float(np.mean(kept))


def _views(
    examinee: Examinee, seen: Seen, needs: Sequence[str]
) -> Iterator[tuple[Sequence[Question], Mapping[str, Tensor]]]:
    """The questions with their signals: all at once, or one by one for a method that reads them."""
    asked = [name for name in needs if name in QUESTION_SIGNALS]
    if not asked:
        yield seen.clip.questions, seen.signals
        return
    tokens = VisualTokens.from_grid(seen.tokens, seen.signals)
    for question in seen.clip.questions:
        yield [question], with_question(examinee.family, question.text, tokens, asked).tokens.signals


def best_cells(seen: Seen, top: int, by: str) -> NDArray[np.int64]:
    """The ``top`` cells of every slice, (slices, top), by ``saliency`` or at ``random``."""
    scores = seen.saliency.reshape(-1, CELLS).numpy()
    if by == "random":
        scores = np.random.default_rng(seen.clip.seed).random(scores.shape)
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


def salient_marks(examinee: Examinee, seen: Seen, top: int, by: str) -> list[bool]:
    """Marks from the ``top`` tokens of every slice alone."""
    index = np.sort((best_cells(seen, top, by) + np.arange(len(seen.tokens))[:, None] * CELLS).reshape(-1))
    return marks(examinee, seen, index, seen.tokens.flatten(0, 2)[torch.from_numpy(index)])


def salient_recall(seen: Seen, top: int, by: str) -> tuple[list[bool], list[bool]]:
    """Whether the ``top`` tokens of its slices touch each object; and the brief ones alone.

    A token touches an object if it covers at least half of what the object's best token covers.
    """
    best = best_cells(seen, top, by)
    every, brief = [], []
    for thing, coverage in zip(seen.clip.script.things, seen.coverage, strict=True):
        hit = bool(np.take_along_axis(coverage, best, axis=1).max() >= 0.5 * coverage.max())
        every.append(hit)
        if thing.role != "main":
            brief.append(hit)
    return every, brief


@torch.no_grad()
def generated(examinee: Examinee, clip: Clip) -> list[str]:
    """Answers of stock ``generate()`` from the pixels, one question at a time."""
    tokenizer = AutoTokenizer.from_pretrained(examinee.folder)
    images = pixels(examinee.architecture.fill(clip.frames))
    texts = []
    for question in clip.questions:
        content = [{"type": "video"}, {"type": "text", "text": question.text}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = examinee.architecture.stock_inputs(tokenizer(text)["input_ids"], images)
        out = examinee.model.generate(**inputs, max_new_tokens=8)
        new = out[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return texts


def by_type(clips: Sequence[Clip], outcomes: Sequence[Sequence[bool]]) -> dict[str, list[bool]]:
    """Sort outcomes (one list per clip) by question type."""
    sorted_out: dict[str, list[bool]] = {}
    for clip, found in zip(clips, outcomes, strict=True):
        for question, right in zip(clip.questions, found, strict=True):
            sorted_out.setdefault(question.type, []).append(right)
    return sorted_out
