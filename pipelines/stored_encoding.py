"""Encoded videos on disk: what the same model has encoded in the same way is not encoded again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch

import streamprune
from streamprune.budget import read_bytes
from streamprune.cache.cache_folder import features_folder
from streamprune.cache.content_hash import ContentHashes, FileState
from streamprune.cache.feature_store import Entry, FeatureStore
from streamprune.errors import InvalidTypeError, SignalError
from streamprune.frames import FrameMethod
from streamprune.models.base import VideoFamily
from streamprune.models.fingerprint import fingerprint
from streamprune.pipelines.encoding import EncodedVideo, Encoding, check_encoding, encode_video
from streamprune.tokens import VideoGrid, VisualTokens

logger = logging.getLogger("streamprune.cache")

# what may be given for a cache: yes or no, a folder, or a store with a bound of its own
CacheChoice: TypeAlias = "bool | str | os.PathLike[str] | EncodingCache"
DEFAULT_CACHE_BYTES = 4 * 2**30

_FORMAT = 1


@dataclass(frozen=True)
class EncodingCache:
    """Where encoded videos are kept.

    Attributes:
        store: of features and signals.
        hashes: of the files they were made of.
    """

    store: FeatureStore
    hashes: ContentHashes

    @classmethod
    def at(cls, folder: str | os.PathLike[str] | None = None, max_bytes: int | str | None = None) -> Self:
        """The cache below ``folder``, by default the user's, of at most ``max_bytes`` (4 GiB).

        Raises UsageError, or StorageError for a folder that is a file.
        """
        bound = DEFAULT_CACHE_BYTES if max_bytes is None else read_bytes("cache_bytes", max_bytes)
        place = features_folder(None if folder is None else Path(folder))
        return cls(FeatureStore(place, bound), ContentHashes(place))

    @classmethod
    def read(cls, cache: CacheChoice) -> EncodingCache | None:
        """What a user gave: True for the user's cache folder, or another folder; False for no cache.

        The environment variable STREAMPRUNE_CACHE names the user's folder.
        """
        if isinstance(cache, EncodingCache):
            return cache
        if isinstance(cache, bool):
            return cls.at() if cache else None
        if isinstance(cache, str | os.PathLike) and os.fspath(cache):
            return cls.at(cache)
        raise InvalidTypeError(
            f"cache must be True, False, a folder, or an EncodingCache with a bound of its own, got {cache!r}"
        )


def encode_or_fetch(
    family: VideoFamily,
    video: Any,
    method: FrameMethod,
    signals: Sequence[str] | None,
    how: Encoding,
    *,
    question: str | None = None,
    check_grid: Callable[[VideoGrid], None] | None = None,
) -> EncodedVideo:
    """What :func:`encode_video` gives for the same arguments, out of the cache of ``how`` where it is there.

    Only files are cached, encoded by methods of this package: a user's own may change while its name and
    options stay. A cache that cannot be read or written costs a warning.
    """
    request = _Request(family, video, method, how, question, check_grid)
    check_encoding(family, family.cheap_signals() if signals is None else signals, how)
    started = time.perf_counter()
    stored = None if how.cache is None else request.stored(how.cache)
    if stored is None:
        return request.encode(signals)
    found = stored.fetch(signals)
    looked = time.perf_counter() - started
    if found is not None:
        return replace(found, cache_ms=1000 * looked)
    encoded = request.encode(signals)
    started = time.perf_counter()
    stored.keep(encoded)
    return replace(encoded, cache_ms=1000 * (looked + time.perf_counter() - started))


@dataclass(frozen=True)
class _Request:
    """The arguments of one call, but for the signals."""

    family: VideoFamily
    video: Any
    method: FrameMethod
    how: Encoding
    question: str | None
    check_grid: Callable[[VideoGrid], None] | None

    def encode(self, signals: Sequence[str] | None) -> EncodedVideo:
        """Without a cache."""
        return encode_video(
            self.family, self.video, self.method, signals, self.how,
            question=self.question, check_grid=self.check_grid,
        )  # fmt: skip

    def stored(self, cache: EncodingCache) -> _StoredVideo | None:
        """Its place in the cache; None when it cannot have one."""
        if not isinstance(self.video, str | os.PathLike):
            return None
        path = Path(self.video)
        try:
            if not path.is_file():
                return None
            seen, content = FileState.of(path), cache.hashes.of(path)
        except (OSError, ValueError):
            return None  # whoever opens it says what is wrong
        try:
            key = _key(self._identity(content))
        except _NotPlainError as error:
            logger.debug("%s is not cached: %s", path, error)
            return None
        return _StoredVideo(self, cache.store, path, seen, key)

    def _identity(self, content: str) -> dict[str, Any]:
        """Everything that features depend on."""
        family, config = self.family, self.family.model.config
        reads_question = "relevance" in self.method.needs
        return {
            "format": _FORMAT,
            "version": streamprune.__version__,
            "content": content,
            "suffix": Path(self.video).suffix.lower(),  # readers go by it, too
            "model": fingerprint(family),
            "pooling_head": _tensors_hash(family.checkpoint.pooling_head or {}),
            "device": str(family.vision_device()),
            "attention": [
                getattr(part, "_attn_implementation", None)
                for part in (config, getattr(config, "vision_config", None))
            ],
            "backend": self.how.backend,
            "frames_per_batch": self.how.frames_per_batch,
            "frames": _plain(self.method),
            "question": self.question if reads_question else None,
            "encoder": _plain(self.how.encoder),
        }


@dataclass(frozen=True)
class _StoredVideo:
    """Entries of one encoded file: one of its features, and one of every signal, which methods share."""

    request: _Request
    store: FeatureStore
    path: Path
    seen: FileState
    key: str

    def fetch(self, names: Sequence[str] | None) -> EncodedVideo | None:
        """It with the signals ``names``; None when something is missing. Others are computed late."""
        family = self.request.family
        wanted = family.cheap_signals() if names is None else names
        entry = self.store.get(self.key)
        parts = None if entry is None else self._signals(entry, wanted)
        if entry is None or parts is None:
            return None
        about, device = entry.about, torch.device(entry.about["device"])
        grid = VideoGrid(*about["grid"])
        if self.request.check_grid is not None:
            self.request.check_grid(grid)
        features, carried = entry.tensors["features"].to(device), entry.tensors.get("carried")
        as_grid = features.reshape(grid.frames, grid.rows, grid.cols, -1)
        computed = {name: as_grid if part is None else part.to(device) for name, part in parts.items()}
        tokens = VisualTokens(
            features,
            grid,
            family.signals(computed, self._late if names is None else None),
            tuple(about["pts_seconds"]),
            carried=None if carried is None else carried.to(device),
        )
        self.request.how.report("encode", grid.frames, grid.frames)
        return EncodedVideo(
            tokens=tokens,
            source=str(self.path) if about["source"] == about["path"] else str(about["source"]),
            warnings=tuple(about["warnings"]),
            decode_ms=0.0,
            preprocess_ms=0.0,
            encode_ms=0.0,
            encoder=self.request.how.encoder,
            tower_share=float(about["tower_share"]),
            from_cache=True,
        )

    def keep(self, encoded: EncodedVideo) -> None:
        """Store what is not there yet, unless the file changed while it was encoded."""
        try:
            if FileState.of(self.path) != self.seen:
                return
        except OSError:
            return
        tokens, grid = encoded.tokens, encoded.tokens.grid
        tensors = {"features": tokens.features}
        if tokens.carried is not None:
            tensors["carried"] = tokens.carried
        about = {
            "grid": [grid.frames, grid.rows, grid.cols],
            "pts_seconds": list(encoded.pts_seconds),
            "path": str(self.path),
            "source": encoded.source,
            "warnings": list(encoded.warnings),
            "tower_share": encoded.tower_share,
            "device": str(tokens.features.device),
        }
        there = self.store.holds(self.key) or self.store.put(self.key, tensors, about)
        for name, value in tokens.signals.items() if there else ():
            if not self.store.holds(f"{self.key}-{name}"):
                # a signal may be the features themselves
                place, size = tokens.features.data_ptr(), tokens.features.numel()
                same = (value.data_ptr(), value.numel()) == (place, size)
                held = {} if same else {"signal": value}
                self.store.put(f"{self.key}-{name}", held, {"is_features": same})

    def _signals(self, entry: Entry, names: Sequence[str]) -> dict[str, torch.Tensor | None] | None:
        """Signals by name, None for one that is the features; None when one is missing."""
        found: dict[str, torch.Tensor | None] = {}
        for name in names:
            one = self.store.get(f"{self.key}-{name}")
            if one is None:
                return None
            found[name] = None if one.about["is_features"] else one.tensors["signal"]
        return found

    def _late(self, names: Sequence[str]) -> tuple[Mapping[str, torch.Tensor], float]:
        """Signals that nobody had asked for: encoded once more, and kept."""
        started = time.perf_counter()
        try:
            changed = FileState.of(self.path) != self.seen
        except OSError:
            changed = True
        if changed:
            raise SignalError(
                f"the signal {names[0]!r} was not computed when {self.path} was encoded, and the file has "
                "changed or gone since; encode it again"
            )
        request = replace(self.request, check_grid=None)
        stored = replace(self, request=request)
        encoded = stored.fetch(names)
        if encoded is None:
            encoded = request.encode(names)
            stored.keep(encoded)
        return dict(encoded.tokens.signals), 1000 * (time.perf_counter() - started)


class _NotPlainError(Exception):
    """Something about which a key cannot say everything; never leaves this module."""


def _key(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]


def _plain(value: Any) -> Any:
    """``value`` as JSON can say it. Raises _NotPlainError for what is no plain option of this package."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    cls = type(value)
    if is_dataclass(value) and cls.__module__.startswith("streamprune."):
        options = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        return [f"{cls.__module__}.{cls.__qualname__}", options]
    raise _NotPlainError(f"{cls.__qualname__} is not of this package")


def _tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
