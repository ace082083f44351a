"""What the OpenAI-style server takes from others, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.checks import check_count, check_flag, check_number
from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.recipe import Recipe

_DAY_SECONDS = 86_400.0
# what a request holds besides its videos, and what base64 adds to these
_TEXT_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """Bounds of what requests bring, checked before anything of it is decoded.

    Args:
        media_root: folder whose files may be named by file:// URLs; None: none may.
        allow_https: videos may be fetched from public https addresses.
        allow_overrides: a request may choose its own recipe, keep_ratio, num_frames and fps.
        max_video_bytes: of one request's videos and pictures together, as files.
        max_video_seconds: longest video.
        max_frames: most frames of a video that are looked at.
        max_pixels: largest picture, rows times columns.
        max_queue: requests that wait while one is answered; more are sent away.
        max_seconds: a request that takes longer, waiting included, is ended.
        fetch_seconds: longest download.
        max_new_tokens: longest answer, also where a request does not say how long.
        cache_bytes: encoded videos that are kept for questions to come; 0 keeps none.
        recipe: for requests that do not choose one; None keeps every token.
        keep_ratio: share of the visual tokens KEPT, with ``recipe``.
        num_frames: frames looked at where a request does not say; None: what suits the model.
    """

    media_root: Path | None = None
    allow_https: bool = False
    allow_overrides: bool = True
    max_video_bytes: int = 64_000_000
    max_video_seconds: float = 3600.0
    max_frames: int = 64
    max_pixels: int = 4096 * 4096
    max_queue: int = 8
    max_seconds: float = 120.0
    fetch_seconds: float = 30.0
    max_new_tokens: int = 256
    cache_bytes: int = 256_000_000
    recipe: str | Path | Recipe | None = None
    keep_ratio: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_video_bytes", "max_frames", "max_pixels", "max_new_tokens"):
            check_count(name, getattr(self, name))
        for name in ("max_queue", "cache_bytes"):
            check_count(name, getattr(self, name), least=0)
        for name in ("max_video_seconds", "max_seconds", "fetch_seconds"):
            check_number(name, getattr(self, name), 0.01, _DAY_SECONDS)
        check_flag("allow_https", self.allow_https)
        check_flag("allow_overrides", self.allow_overrides)
        if self.media_root is not None and not Path(self.media_root).is_dir():
            raise InvalidValueError(
                f"allowed_local_media_path must be a folder that is there, got {str(self.media_root)!r}"
            )
        if self.num_frames is not None:
            check_count("num_frames", self.num_frames)
            if self.num_frames > self.max_frames:
                raise InvalidValueError(
                    f"num_frames={self.num_frames} is more than max_frames={self.max_frames}"
                )

    @property
    def max_body_bytes(self) -> int:
        """Of a whole request, in which videos are written as base64."""
        return self.max_video_bytes * 4 // 3 + _TEXT_BYTES
