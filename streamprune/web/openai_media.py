"""The videos and pictures of a request: where they may come from, and how they are opened."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from streamprune.cache.content_hash import FileState
from streamprune.errors import SourceFormatError
from streamprune.readers import Source, open_source
from streamprune.readers.base import Image
from streamprune.readers.containers import check_self_contained
from streamprune.web.openai_download import download
from streamprune.web.openai_errors import ApiError, invalid, too_large
from streamprune.web.openai_messages import MediaPart
from streamprune.web.openai_options import ApiOptions

Run: TypeAlias = "Callable[[Callable[[], tuple[Media, int]]], Awaitable[tuple[Media, int]]]"

_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_FRAMES_TYPE = "video/jpeg"
# of pictures that are held together: 400 MB
_HELD_PIXELS = 2**27


@dataclass(frozen=True)
class Media:
    """One video or picture that was let in; not decoded yet.

    Attributes:
        part: how the client named it.
        content: name of what is in it: equal names, equal pictures.
        path: of a file below the allowed folder, and what it was like when it was let in.
        parts: bytes of anything else: of a video file, or of each picture.
        is_file: whether ``parts`` is a video file.
    """

    part: MediaPart
    content: str
    path: tuple[Path, FileState] | None = None
    parts: tuple[bytes, ...] = field(default=(), repr=False)
    is_file: bool = False

    @contextmanager
    def opened(self, options: ApiOptions) -> Iterator[Source]:
        """A source of its frames, after its size and length were looked at. Raises ApiError."""
        if self.path is not None:
            path, before = self.path
            with _opened_file(path, self.part, options) as source:
                yield source
                # what was seen goes by the name of what was let in
                if FileState.of(path) != before:
                    raise SourceFormatError(f"{path}: it has changed while it was read")
        elif self.is_file:
            with NamedTemporaryFile(prefix="streamprune-") as file:
                file.write(self.parts[0])
                file.flush()
                with _opened_file(Path(file.name), self.part, options) as source:
                    yield source
        else:
            self._check_sizes(options)
            images = [_picture(data, self.part) for data in self.parts]
            if any(image.shape != images[0].shape for image in images):
                raise invalid(f"{self.part.param}: the frames differ in size", self.part.param)
            with open_source(images, fps=self.part.fps) as source:
                yield _short_enough(source, self.part, options)

    def _check_sizes(self, options: ApiOptions) -> None:
        """Of all pictures, which are held together, before any is decoded."""
        total = 0
        for data in self.parts:
            with _header(data, self.part) as picture:
                _check_pixels(picture.height, picture.width, self.part, options)
                total += picture.height * picture.width
        if total > _HELD_PIXELS:
            raise too_large(
                f"{self.part.param}: the frames have {total} pixels together, more than the {_HELD_PIXELS} "
                "taken",
                self.part.param,
            )


class MediaDoor:
    """Lets in what the options allow, and no more bytes than they say.

    Args:
        options: of the server.
    """

    def __init__(self, options: ApiOptions) -> None:
        self._options = options
        self._root = None if options.media_root is None else options.media_root.resolve()
        self._hashes: dict[FileState, str] = {}

    async def take(self, parts: tuple[MediaPart, ...], run: Run) -> list[Media]:
        """All videos and pictures of one request, downloaded where they have to be. Raises ApiError.

        Args:
            run: calls in a thread what takes its time.
        """
        left, found = self._options.max_video_bytes, []
        for part in parts:
            media, size = await self._take(part, left, run)
            left -= size
            found.append(media)
        return found

    async def _take(self, part: MediaPart, left: int, run: Run) -> tuple[Media, int]:
        scheme = part.url.partition(":")[0].lower()
        if scheme == "file":
            return await run(lambda: self._file(part, left))
        if scheme == "data":
            return await run(lambda: _data(part, left, self._options))
        if scheme == "https":
            if not self._options.allow_https:
                raise invalid(f"{part.param}: https is not allowed here (--allow-https)", part.param)
            data = await download(part.url, left, self._options.fetch_seconds, param=part.param)
            return _of_bytes(part, (data,), part.kind == "video"), len(data)
        raise invalid(
            f"{part.param}.url must begin with data:, https: or file:, as far as the server allows them",
            part.param,
        )

    def _file(self, part: MediaPart, left: int) -> tuple[Media, int]:
        """A file below the allowed folder; links are followed before it is looked at where it is."""
        if self._root is None:
            raise invalid(
                f"{part.param}: files of the server are not allowed (--allowed-local-media-path)", part.param
            )
        path = self._below_root(part)
        if not path.is_file():
            raise ApiError(404, f"{part.param}: there is no such file", "file_not_found", part.param)
        try:
            state = FileState.of(path)
            if state.size > left:
                raise _too_many_bytes(part, state.size, left)
            content = self._hashes.get(state)
            if content is None:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                self._hashes = {**dict(list(self._hashes.items())[-999:]), state: content}
        except OSError as error:
            raise ApiError(404, f"{part.param}: it cannot be read", "file_not_found", part.param) from error
        if part.kind == "picture":
            return _of_bytes(part, (path.read_bytes(),), False), state.size
        return Media(part, content, (path, state)), state.size

    def _below_root(self, part: MediaPart) -> Path:
        url = urlsplit(part.url)
        try:
            path = Path(unquote(url.path, errors="strict")).resolve()
        except (OSError, ValueError, RuntimeError):  # zero bytes, names too long, links in a circle
            path = Path("/")
        # of what lies elsewhere not even whether it is there is told
        if url.netloc not in ("", "localhost") or self._root is None or not path.is_relative_to(self._root):
            raise invalid(f"{part.param}: only files below the allowed folder may be named", part.param)
        return path


def _data(part: MediaPart, left: int, options: ApiOptions) -> tuple[Media, int]:
    """``data:video/mp4;base64,...``, or the frames of a video as pictures with commas between them."""
    head, comma, text = part.url.partition(",")
    kind, _, coding = head[len("data:") :].partition(";")
    kind = kind.strip().lower()
    if not comma or coding.split(";")[-1].strip().lower() != "base64":
        raise invalid(f"{part.param}: a data: URL must be data:TYPE;base64,DATA", part.param)
    wanted = "video/" if part.kind == "video" else "image/"
    if not kind.startswith(wanted):
        message = f"{part.param}: must be of type {wanted}..., got {kind[:50]!r}"
        raise ApiError(415, message, "unsupported_type", part.param)
    pieces = 1 + (text.count(",") if kind == _FRAMES_TYPE else 0)
    if pieces > options.max_frames:
        message = f"{part.param}: {pieces} frames are more than the {options.max_frames} taken"
        raise too_large(message, part.param)
    # before it is decoded; every piece may end in filling and a comma
    if len(text) * 3 // 4 > left + 3 * pieces:
        raise _too_many_bytes(part, len(text) * 3 // 4, left)
    try:
        parts = tuple(base64.b64decode(piece, validate=True) for piece in text.split(",", pieces - 1))
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{part.param}: the data is not base64", part.param) from error
    size = sum(map(len, parts))
    if size > left:
        raise _too_many_bytes(part, size, left)
    return _of_bytes(part, parts, part.kind == "video" and kind != _FRAMES_TYPE), size


def _of_bytes(part: MediaPart, parts: tuple[bytes, ...], is_file: bool) -> Media:
    found = hashlib.sha256(str([is_file, part.fps, *map(len, parts)]).encode())
    if is_file:
        found = hashlib.sha256()  # the same name as the file has below the allowed folder
    for data in parts:
        found.update(data)
    return Media(part, found.hexdigest(), None, parts, is_file)


@contextmanager
def _opened_file(path: Path, part: MediaPart, options: ApiOptions) -> Iterator[Source]:
    """A video file whose name clients do not get to see."""
    try:
        rows, cols = check_self_contained(path)
        _check_pixels(rows, cols, part, options)
        with open_source(path, max_pixels=options.max_pixels) as source:
            yield _short_enough(source, part, options)
    except OSError as error:  # those of the readers are such, too
        message = str(error).replace(str(path.absolute()), part.param).replace(str(path), part.param)
        raise ApiError(422, message, "unreadable_video", part.param) from error


def _short_enough(source: Source, part: MediaPart, options: ApiOptions) -> Source:
    seconds, limit = source.info.duration_seconds, options.max_video_seconds
    if seconds is None or seconds > limit:
        long = "of unknown length" if seconds is None else f"{seconds:.1f} s long"
        raise too_large(f"{part.param}: the video is {long}; at most {limit:g} s are taken", part.param)
    return source


@contextmanager
def _header(data: bytes, part: MediaPart) -> Iterator[PillowImage.Image]:
    """A picture of which nothing but its header was read."""
    try:
        with PillowImage.open(io.BytesIO(data), formats=_PICTURES) as opened:
            yield opened
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        message = f"{part.param}: not a whole picture ({', '.join(_PICTURES)})"
        raise ApiError(422, message, "unreadable_video", part.param) from error


def _picture(data: bytes, part: MediaPart) -> Image:
    with _header(data, part) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


def _check_pixels(rows: int, cols: int, part: MediaPart, options: ApiOptions) -> None:
    if rows * cols > options.max_pixels:
        raise too_large(
            f"{part.param}: {rows} x {cols} pixels are more than the {options.max_pixels} taken", part.param
        )


def _too_many_bytes(part: MediaPart, size: int, left: int) -> ApiError:
    return too_large(
        f"{part.param}: {size} bytes are more than the {left} that are left for this request "
        "(--max-video-bytes)",
        part.param,
    )
