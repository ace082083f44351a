"""What a model family must give, and the nouns between its vision tower and its language model.

To add a family: a file in this folder, named by the checkpoint's ``model_type``, with a subclass of
:class:`VideoFamily`, and its line in ``streamprune/models/families.py``. A family knows tensors and prompts;
it opens no files, keeps no videos and chooses no tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod
from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.conversation import given_answer_ids, next_turn_ids
from streamprune.models.preprocessing import Clip, FrameTransform, Image
from streamprune.models.prompt import Prompt
from streamprune.models.signals import Late, Signals
from streamprune.models.stock_inputs import StockInputs
from streamprune.models.turns import Turns
from streamprune.positions import PositionRule, Positions
from streamprune.registry import list_methods
from streamprune.tokens import QUESTION_SIGNALS, Reduction, VideoGrid, VisualTokens

__all__ = ["Checkpoint", "EncodedFrames", "Prompt", "VideoFamily"]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that was read from a model's folder; made by ``loading``.

    Attributes:
        name: what the user asked for.
        model: the stock transformers model, in eval mode on its device.
        tokenizer: its tokenizer, with a chat template.
        video_settings: the video processor's settings as written in the folder.
        pooling_head: tensors of a SigLIP attention-pooling head under their stock names, None when absent.
    """

    name: str
    model: Any
    tokenizer: Any
    video_settings: Mapping[str, Any]
    pooling_head: Mapping[str, torch.Tensor] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EncodedFrames:
    """Visual tokens of consecutive frames, or of temporal slices of some frames each.

    Args:
        features: (frames, rows, cols, channels), as they would enter the language model.
        signals: named tensors whose first axis is the frames, for methods that score tokens.
        tower_share: share of the tokens, over all layers of the vision tower, that went through it.
        carried: (frames, rows, cols, channels) what else the language model gets for each token.
    """

    features: torch.Tensor
    signals: Mapping[str, torch.Tensor]
    tower_share: float = 1.0
    carried: torch.Tensor | None = None

    @classmethod
    def join(cls, parts: Sequence[EncodedFrames]) -> EncodedFrames:
        """Put consecutive ``parts`` after one another."""
        if len(parts) == 1:
            return parts[0]
        features = torch.cat([part.features for part in parts])
        signals = {
            # a signal may be the features themselves: they are not held twice
            name: features
            if value is parts[0].features
            else torch.cat([part.signals[name] for part in parts])
            for name, value in parts[0].signals.items()
        }
        share = sum(part.tower_share * len(part.features) for part in parts) / len(features)
        carried = [part.carried for part in parts if part.carried is not None]
        return cls(features, signals, share, torch.cat(carried) if carried else None)

    def tokens(
        self, signals: Mapping[str, torch.Tensor], pts_seconds: tuple[float, ...] | None = None
    ) -> VisualTokens:
        """The same as flat :class:`VisualTokens`; ``signals`` is usually the family's :class:`Signals`."""
        frames, rows, cols, channels = self.features.shape
        grid = VideoGrid(frames, rows, cols)
        carried = None if self.carried is None else self.carried.reshape(grid.tokens, -1)
        flat = self.features.reshape(grid.tokens, channels)
        return VisualTokens(flat, grid, signals, pts_seconds, carried=carried)


class VideoFamily(ABC):
    """A loaded model of one family, behind the few verbs the pipelines use.

    Class attributes:
        model_type: as in the checkpoint's ``config.json``.
        default_num_frames: frames to look at when the user does not say.
        frames_per_batch: frames that go through the vision tower at once when the user does not say.
        several_videos: whether a prompt may hold several, each written as if it were alone.
    """

    model_type: ClassVar[str]
    default_num_frames: ClassVar[int] = 16
    frames_per_batch: ClassVar[int] = 8
    several_videos: ClassVar[bool] = True

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.transform = self.read_transform(checkpoint.video_settings)
        # one forward pass at a time: hooks and caches of a model are not made for two threads
        self.lock = Turns()

    @classmethod
    def auto_class(cls) -> Any:
        """The class of transformers that loads such models by ``from_pretrained``."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    @property
    def device(self) -> torch.device:
        """Where inputs have to go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self.model.config.get_text_config()

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus answer the language model was made for."""
        return int(self.text_config.max_position_embeddings)

    @property
    def frames_per_slice(self) -> int:
        """Consecutive frames that become one frame of tokens; a last slice may hold fewer."""
        return 1

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """How pictures are prepared, by the video processor's ``settings``."""
        return FrameTransform.from_settings(settings, self.default_size())

    def frame_size(self, clip: Clip) -> tuple[int, int]:
        """(rows, cols) in pixels in which the frames of ``clip`` are shown to the tower."""
        return self.transform.size

    def preprocess(self, images: Sequence[Image], clip: Clip | None = None) -> torch.Tensor:
        """Turn uint8 (rows, cols, 3) pictures, of any sizes, into (frames, 3, rows, cols) on the device.

        ``clip`` is the video they are part of; without it they are all of it.
        """
        size = self.frame_size(Clip.of(images) if clip is None else clip)
        return replace(self.transform, size=size)(images, self.vision_device())

    def slice_times(self, pts_seconds: Sequence[float]) -> tuple[float, ...]:
        """Time of every frame of tokens: halfway between the first and the last frame it was made of."""
        step = self.frames_per_slice
        slices = [pts_seconds[start : start + step] for start in range(0, len(pts_seconds), step)]
        return tuple((times[0] + times[-1]) / 2 for times in slices)

    def vision_device(self) -> torch.device:
        """Where the vision tower's inputs have to go."""
        device: torch.device = next(self.model.get_encoder("video").parameters()).device
        return device

    def signals(self, computed: Mapping[str, torch.Tensor], late: Late | None = None) -> Signals:
        """Wrap signals that were ``computed`` while encoding, and the way to compute others ``late``."""
        return Signals(computed, late, self.check_frame_signals)

    def check_signals(self, names: Sequence[str]) -> None:
        """Raise SignalError, naming what would work, unless this model can give every signal of ``names``."""
        for name in names:
            if name not in self._everything():
                raise SignalError(
                    f"{self.explain_missing(name)} {self.methods_that_work(self._everything())}"
                )

    def check_frame_signals(self, names: Sequence[str]) -> None:
        """The same for what is computed while encoding, before there is a question."""
        self.check_signals(names)
        for name in names:
            if name in QUESTION_SIGNALS:
                raise SignalError(
                    f"the signal {name!r} belongs to a question, so no video has it: ask() computes it for a "
                    "method that lists it in its needs; leave it out of signals"
                )

    def _everything(self) -> tuple[str, ...]:
        return (*self.available_signals(), *QUESTION_SIGNALS)

    def methods_that_work(self, signals: Sequence[str]) -> str:
        """A sentence that lists the methods for which ``signals`` are enough."""
        have = set(signals)
        names = [info.name for info in list_methods("pre_llm") if have.issuperset(info.needs)]
        return f"Methods that work with this model as it is: {', '.join(names)}."

    def explain_missing(self, name: str) -> str:
        """Say why signal ``name`` cannot be given, and what to do about it."""
        known = ", ".join(self._everything())
        return f"{self.model_type} models cannot give the signal {name!r} (available: {known})."

    @abstractmethod
    def default_size(self) -> tuple[int, int]:
        """(rows, cols) in pixels that the tower takes, for folders that do not say."""

    @abstractmethod
    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Grid of visual tokens that ``num_frames`` frames become.

        Args:
            size: their :meth:`frame_size`; families that show every video in one size do not ask.
        """

    @abstractmethod
    def available_signals(self) -> tuple[str, ...]:
        """Names of the signals :meth:`encode` can compute for this very checkpoint."""

    def cheap_signals(self) -> tuple[str, ...]:
        """Those that cost next to nothing while encoding, computed for whoever does not say which."""
        return ()

    def check_encoder(self, encoder: EncoderMethod, signals: Sequence[str] = ()) -> None:
        """Raise UnsupportedModelError, InvalidValueError or SignalError unless :meth:`encode` can do it."""
        raise UnsupportedModelError(
            f"{self.model_type} models cannot run a method inside their vision tower; "
            "leave out the encoder stage"
        )

    @abstractmethod
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the vision tower over (frames, 3, rows, cols) and compute the named ``signals`` on the way.

        Frames may come in several calls of whole slices: the parts join to the same tokens, unless
        ``encoder`` lets the frames of a call influence each other.

        Args:
            before: (3, rows, cols) the frame before the first, for signals that compare neighbours; the first
                of its slice where slices hold several.
            encoder: makes the tower cheaper on the way up; see :meth:`check_encoder`.
        """

    @abstractmethod
    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """Build the prompt for ``question`` about what ``reduction`` left of one video."""

    def video_mark(self) -> str:
        """What the chat template writes for a video."""
        mark: str = self.tokenizer.convert_ids_to_tokens(self.model.config.video_token_id)
        return mark

    def turn_template(self) -> str | None:
        """The chat template for later questions of a conversation; None is the tokenizer's own."""
        return None

    def next_turn_ids(self, question: str) -> list[int]:
        """Ids from the end of an answer to where the next one begins, with ``question`` between them."""
        return self._without_media("question", next_turn_ids(self.tokenizer, question, self.turn_template()))

    def given_answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer that was not generated here."""
        return self._without_media("answer", given_answer_ids(self.tokenizer, answer))

    def _without_media(self, name: str, ids: list[int]) -> list[int]:
        """``ids`` of the text ``name``; InvalidValueError when it brings a video or picture of its own."""
        config = self.model.config
        media = {getattr(config, token, None) for token in ("video_token_id", "image_token_id")}
        if not media.isdisjoint(ids):
            names = self.tokenizer.convert_ids_to_tokens(sorted(set(ids) & media))
            raise InvalidValueError(
                f"{name} must not contain the placeholders {' or '.join(map(repr, names))}; take them out"
            )
        return ids

    def stock_inputs(self) -> StockInputs:
        """How the stock processor writes videos; UnsupportedModelError where that is not known."""
        raise UnsupportedModelError(
            f"it is not known how the processor of {self.model_type} models writes videos, so nothing can be "
            "dropped before the language model inside model.generate; use vlm.ask, or a recipe with an "
            "in_llm or kv stage alone"
        )

    def reach(self, fixed: int, grid: VideoGrid) -> int:
        """Positions that a prompt with all of ``grid`` takes at least, ``fixed`` tokens being besides it."""
        return fixed + grid.tokens

    @abstractmethod
    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Length of the prompt for ``question`` besides the grid's tokens: template, question, separators.

        Of a family that writes something beside every frame of tokens, what it writes at least beside
        ``frames`` of them.
        """
