"""A vision tower that sees one frame after the other and computes what is new in each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.cache.ledger import Ledger
from streamprune.cache.tower_cache import TowerCache
from streamprune.encoder.stc import STCCacher, picture_change
from streamprune.errors import MemoryBudgetError, SnapshotError, UnsupportedModelError
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.pixel_signals import PIXEL_SIGNALS
from streamprune.models.tower_family import LAST_SIGNALS, check_outside
from streamprune.models.tower_patches import TowerPatches
from streamprune.models.tower_rows import TowerLayer, tower_layers
from streamprune.models.tower_run import TowerRun, remembered
from streamprune.models.tower_witness import tower_witness
from streamprune.models.vision_layers import SUMMARIES

# read off states between layers, which are complete whatever was recomputed
_STATE_SIGNALS = ("encoder_features", "early_features", "projector_sensitivity")

logger = logging.getLogger("streamprune.models")


class TowerStream:
    """The stock tower of ``family`` for the frames of one stream, in order.

    A frame here is what becomes one frame of tokens: ``family.frames_per_slice`` pictures. Embedding, merging
    and projecting are computed for every frame; inside the layers only what ``method`` chooses is. Where the
    ledger has no room for what is to be remembered, frames are computed in full. Frames of another size
    begin anew with a reference.

    Calls come one at a time, with ``family.lock`` held: layers are stood in for while a frame is encoded.

    Args:
        family: whose tower.
        method: chooses; None = every frame in full.
        ledger: asked for the bytes of what is remembered (tier ``tower``).

    Raises:
        UnsupportedModelError: the tower's layers are of a kind that cannot be run for some tokens.
    """

    def __init__(self, family: VideoFamily, method: STCCacher | None, ledger: Ledger) -> None:
        self._family, self._method = family, method
        self._parts: TowerPatches | None = None
        self._layers: list[TowerLayer] = []
        if method is not None:
            self._parts, self._layers = tower_parts(family)
        self._summaries = _summaries(family)
        self._cache = TowerCache(ledger)
        self._said_no_room = False
        self.reused_cells: NDArray[np.bool_] | None = None
        self.updated: Sequence[torch.Tensor | None] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered."""
        return self._cache.nbytes

    def tensors(self) -> Iterator[torch.Tensor]:
        """What is remembered."""
        return self._cache.tensors()

    def reset(self) -> None:
        """Forget everything: the next frame is a reference."""
        self._cache.clear()
        self.reused_cells, self.updated = None, ()

    def close(self) -> None:
        """Free what is held; may be called twice."""
        self.reset()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What is remembered, for saving: tensors by name, not copied, and what JSON can hold."""
        return self._cache.state()

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken; SnapshotError when it is incomplete or another tower's."""
        self.reset()
        if not about:
            return
        if self._method is None:
            raise SnapshotError("the stream was saved with a method inside the vision tower; name it again")
        self._cache.restore(tensors, about, self._layers[0].weight)
        expected = remembered(self._method, len(self._layers), 0, len(self._layers[0].weight), (0, 0))
        shape = self._cache.shape
        if shape is None or replace(shape, tokens=0, picture=(0, 0)) != expected:
            self.reset()
            raise SnapshotError(
                f"the stream was saved with another vision tower, or another method inside it: {shape}"
            )

    @torch.no_grad()
    def encode(
        self, pixels: torch.Tensor, signals: Sequence[str] = (), before: torch.Tensor | None = None
    ) -> EncodedFrames:
        """Encode the next frames, (frames, 3, rows, cols), with signals that no attention is read for.

        Of the last one stays behind: ``reused_cells``, (rows, cols) bool of the token grid, the cells none
        of whose patches was recomputed in any layer; and ``updated``, for each layer the tokens of the tower
        that were recomputed, None = all.

        Args:
            before: as for :meth:`VideoFamily.encode`.
        """
        family, step = self._family, self._family.frames_per_slice
        if self._method is None or self._parts is None:
            encoded = family.encode(pixels, signals, before=before)
            self.reused_cells = np.zeros(encoded.features.shape[1:3], dtype=np.bool_)
            return encoded
        check_stream_signals(family, signals)
        parts = []
        for frame in torch.split(pixels, step):
            parts.append(self._encode(self._method, self._parts, frame, signals, before))
            before = frame[0]
        return EncodedFrames.join(parts)

    def _encode(
        self,
        method: STCCacher,
        parts: TowerPatches,
        pixels: torch.Tensor,
        signals: Sequence[str],
        before: torch.Tensor | None,
    ) -> EncodedFrames:
        family, cache = self._family, self._cache
        pixels = pixels.to(family.vision_device())
        patches = parts.tower_patches(pixels)
        changed, reference = self._look(method, patches)
        picture = picture_size(method, patches)
        run = TowerRun(self._layers, method, cache, picture, changed, reference)
        age, cache.age = cache.age, None  # nothing is remembered if this fails half-way
        try:
            with run.standing_in():
                encoded = family.encode(pixels, signals, before=before)
        except MemoryBudgetError as error:
            self._say_no_room(error)
            encoded, run.updated = family.encode(pixels, signals, before=before), [None]
        else:
            if run.reference and cache.picture.numel():
                cache.picture.copy_(patches)
            cache.age = 1 if run.reference or age is None else age + 1
        self.updated = tuple(run.updated)
        size = pixels.shape[2], pixels.shape[3]
        marks = self._updated_patches(self.updated, len(patches), pixels.device)
        self.reused_cells = ~parts.cells_of_patches(marks, size).cpu().numpy()
        witness = tower_witness()
        if witness is not None:
            layers = [self._updated_patches([index], len(patches), pixels.device) for index in run.updated]
            witness.recomputed.append(torch.stack([parts.cells_of_patches(m, size).cpu() for m in layers]))
        tokens = self._summaries + len(patches)
        computed = sum(tokens if index is None else len(index) for index in run.updated)
        return replace(encoded, tower_share=computed / (tokens * len(run.updated)))

    def _look(self, method: STCCacher, patches: torch.Tensor) -> tuple[torch.Tensor | None, bool]:
        """The tokens to recompute where pixels decide that, and whether the frame is to be a reference."""
        cache, tokens = self._cache, self._summaries + len(patches)
        shape = cache.shape
        if shape is None or (shape.tokens, shape.picture) != (tokens, picture_size(method, patches)):
            return None, True
        if method.expired(cache.age):
            return None, True
        if method.choose == "keys":
            return None, False
        mask = picture_change(patches, cache.picture) > method.pixel_change
        if method.busy(mask):
            return None, True
        places = mask.nonzero()[:, 0]
        cache.picture.index_copy_(0, places, patches[places])
        if self._summaries and len(places):
            ahead = torch.arange(self._summaries, device=places.device)
            places = torch.cat([ahead, places + self._summaries])
        return places, False

    def _updated_patches(
        self, updated: Sequence[torch.Tensor | None], patches: int, device: torch.device
    ) -> torch.Tensor:
        """(patches,) bool: what was recomputed in any of the layers ``updated`` tells about."""
        marks = torch.zeros(self._summaries + patches, dtype=torch.bool, device=device)
        for index in updated:
            marks[slice(None) if index is None else index] = True
        return marks[self._summaries :]

    def _say_no_room(self, error: MemoryBudgetError) -> None:
        if not self._said_no_room:
            logger.warning("every frame goes through the vision tower in full: %s", error)
        self._said_no_room = True


def tower_parts(family: VideoFamily) -> tuple[TowerPatches, list[TowerLayer]]:
    """What runs the tower of ``family`` in parts; UnsupportedModelError where that cannot be."""
    layers = tower_layers(family.model.get_encoder("video"))
    if not layers or not isinstance(family, TowerPatches) or not family.runs_in_parts:
        raise UnsupportedModelError(
            f"the vision tower of {family.model_type} models cannot recompute some of its tokens without the "
            "others; leave out the encoder stage"
        )
    return family, layers


def check_stream_signals(family: VideoFamily, signals: Sequence[str]) -> None:
    """Raise SignalError for any of ``signals`` that is read off the attention of all tokens."""
    family.check_frame_signals(signals)
    known = {*family.cheap_signals(), *LAST_SIGNALS, *_STATE_SIGNALS, *PIXEL_SIGNALS}
    check_outside(family, signals, [name for name in family.available_signals() if name in known])


def remembered_bytes(family: VideoFamily, method: STCCacher, size: tuple[int, int]) -> int:
    """Bytes that ``method`` remembers of frames shown in ``size``, (rows, cols) of pixels."""
    parts, layers = tower_parts(family)
    patches = parts.tower_patches(torch.zeros(family.frames_per_slice, 3, *size))
    tokens, weight = _summaries(family) + len(patches), layers[0].weight
    shape = remembered(method, len(layers), tokens, weight.shape[0], picture_size(method, patches))
    return shape.nbytes(weight.dtype)


def picture_size(method: STCCacher, patches: torch.Tensor) -> tuple[int, int]:
    """Of the picture that is remembered of (patches, values); (0, 0) = it is not."""
    return (patches.shape[0], patches.shape[1]) if method.choose == "pixels" else (0, 0)


def _summaries(family: VideoFamily) -> int:
    """Tokens of a frame that stand for no patch, in front of the others."""
    embeddings = getattr(family.model.get_encoder("video"), "embeddings", None)
    return int(any(getattr(embeddings, name, None) is not None for name in SUMMARIES))
