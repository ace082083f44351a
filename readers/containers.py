"""A look at a video file that comes from somebody else, before anything in it is followed."""

from __future__ import annotations

from pathlib import Path

from streamprune.errors import SourceFormatError

# containers that hold their pictures themselves; playlists, manifests and lists of files name other places
SELF_CONTAINED = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv",
    "ogg", "gif",
)  # fmt: skip


def check_self_contained(path: Path) -> tuple[int, int]:
    """Refuse a file that is no video, or one that makes whoever opens it open others.

    FFmpeg goes by the content, not by the name: a playlist called clip.mp4 would have it read any file of
    this machine. Returns (rows, cols) as the file announces them; nothing is decoded.

    Raises SourceFormatError.
    """
    import av

    options = {"format_whitelist": ",".join(SELF_CONTAINED), "protocol_whitelist": "file"}
    try:
        with av.open(str(path.absolute()), metadata_errors="replace", container_options=options) as container:
            codecs = [stream.codec_context for stream in container.streams.video]
            sizes = [(codec.height, codec.width) for codec in codecs if codec is not None]
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise SourceFormatError(
            f"{path}: not a video that is taken from others; it must be whole, in a container that names no "
            "other file, e.g. mp4, webm, mkv, mov, avi or ts"
        ) from error
    if not sizes:
        raise SourceFormatError(f"{path}: holds no video")
    return max(sizes, key=lambda size: size[0] * size[1])
