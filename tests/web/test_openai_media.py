"""Which videos are let in: from where, of what size; nothing is decoded before it was measured."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamprune.errors import SourceFormatError
from streamprune.readers.containers import check_self_contained
from streamprune.web import openai_media
from streamprune.web.openai_errors import ApiError
from streamprune.web.openai_media import Media, MediaDoor
from streamprune.web.openai_messages import MediaPart
from streamprune.web.openai_options import ApiOptions
from tests.web.openai_client import CLIP, data_url

CLIP_BYTES = CLIP.read_bytes()
VIDEO = data_url(CLIP_BYTES)


def jpeg(rows: int = 8, cols: int = 8, level: int = 100) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((rows, cols, 3), level, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def frames_url(*pictures: bytes) -> str:
    return data_url(b"", "video/jpeg") + ",".join(data_url(one).partition(",")[2] for one in pictures)


def take(options: ApiOptions, *urls: str, kind: str = "video", fps: float | None = None) -> list[Media]:
    async def now(call: Callable[[], tuple[Media, int]]) -> tuple[Media, int]:
        return call()

    parts = tuple(MediaPart(kind, url, fps, f"part[{number}]") for number, url in enumerate(urls))
    return asyncio.run(MediaDoor(options).take(parts, now))


def refused(status: int, reason: str) -> Any:
    return pytest.raises(ApiError, match=reason, check=lambda error: error.status == status)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder with a clip, beside a secret one that is not."""
    root = tmp_path / "allowed"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a clip.mp4").write_bytes(CLIP_BYTES)
    (tmp_path / "secret.mp4").write_bytes(CLIP_BYTES)
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "inside.mp4").symlink_to(root / "deep" / "a clip.mp4")
    (tmp_path / "entry").symlink_to(root)
    return root


def test_equal_videos_have_equal_names_wherever_they_come_from(folder: Path) -> None:
    options = ApiOptions(media_root=folder)
    file, link, data = take(
        options, (folder / "deep" / "a clip.mp4").as_uri(), (folder / "inside.mp4").as_uri(), VIDEO
    )
    assert file.content == link.content == data.content
    frames = frames_url(jpeg(), jpeg(level=9))
    names = {
        take(options, frames)[0].content,
        take(options, frames, fps=2)[0].content,
        take(options, frames_url(jpeg(level=9), jpeg()))[0].content,
        data.content,
    }
    assert len(names) == 4
    with file.opened(options) as source:
        assert source.info.num_frames != 0


def test_files_are_not_let_in_unless_a_folder_is_named(folder: Path) -> None:
    with refused(400, "files of the server are not allowed"):
        take(ApiOptions(), (folder / "deep" / "a clip.mp4").as_uri())


@pytest.mark.parametrize(
    "path",
    [
        "link.mp4",
        "../secret.mp4",
        "deep/../../secret.mp4",
        "%2e%2e/secret.mp4",
        "../nowhere.mp4",
        "a%00b.mp4",
    ],
)
def test_nothing_leads_out_of_the_folder(folder: Path, path: str) -> None:
    for root in (folder, folder.parent / "entry"):  # which may be a link itself
        with refused(400, "only files below the allowed folder"):
            take(ApiOptions(media_root=root), f"file://{folder}/{path}")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "file://elsewhere/etc/passwd", "file:deep", "file:///"]
)
def test_other_files_are_not_let_in(folder: Path, url: str) -> None:
    with refused(400, "only files below the allowed folder"):
        take(ApiOptions(media_root=folder), url)


def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")  # whoever opened it would wait for ever
    for name in ("deep", "pipe.mp4", "nowhere.mp4"):
        with refused(404, "there is no such file"):
            take(ApiOptions(media_root=folder), (folder / name).as_uri())


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        ("http://example.com/a.mp4", 400, "must begin with data:, https: or file:"),
        ("https://example.com/a.mp4", 400, "https is not allowed here"),
        ("ftp://example.com/a.mp4", 400, "must begin with"),
        ("/etc/passwd", 400, "must begin with"),
        ("", 400, "must begin with"),
        ("data:video/mp4,abc", 400, "must be data:TYPE;base64,DATA"),
        ("data:video/mp4;base64", 400, "must be data:TYPE;base64,DATA"),
        ("data:video/mp4;base64,%%%", 400, "not base64"),
        ("data:video/mp4;base64,é", 400, "not base64"),
        ("data:image/png;base64,AAAA", 415, r"must be of type video/\.\.\., got 'image/png'"),
        ("data:text/html;base64,AAAA", 415, "must be of type video/"),
        ("data:;base64,AAAA", 415, "must be of type video/"),
    ],
)
def test_urls_that_are_refused(url: str, status: int, reason: str) -> None:
    with refused(status, reason):
        take(ApiOptions(), url)


def test_pictures_are_of_a_type_of_pictures() -> None:
    with refused(415, "must be of type image/"):
        take(ApiOptions(), VIDEO, kind="picture")


@pytest.mark.parametrize("url", [VIDEO, CLIP.as_uri(), frames_url(*[jpeg()] * 40)])
def test_no_more_bytes_than_allowed(url: str) -> None:
    size = 40 * len(jpeg()) if "jpeg" in url else len(CLIP_BYTES)
    exact = ApiOptions(media_root=CLIP.parent, max_video_bytes=size)
    assert len(take(exact, url)) == 1
    with refused(413, "bytes are more than the"):
        take(ApiOptions(media_root=CLIP.parent, max_video_bytes=size - 1), url)
    with refused(413, r"part\[1\]: .* more than the 0 that are left"):
        take(exact, url, url)


def test_no_more_frames_seconds_and_pixels_than_allowed() -> None:
    with refused(413, "3 frames are more than the 2 taken"):
        take(ApiOptions(max_frames=2), frames_url(*[jpeg()] * 3))
    options = ApiOptions(max_video_seconds=2)
    with refused(413, "the video is 8.0 s long; at most 2 s"), take(options, VIDEO)[0].opened(options):
        pass
    (slow,) = take(options, frames_url(*[jpeg()] * 3), fps=1)
    with refused(413, "the video is 3.0 s long"), slow.opened(options):
        pass
    options = ApiOptions(max_pixels=100)
    for url, kind in ((VIDEO, "video"), (data_url(jpeg(11, 10), "image/jpeg"), "picture")):
        (media,) = take(options, url, kind=kind)
        with refused(413, r"pixels are more than the 100 taken"), media.opened(options):
            pass


def test_frames_are_held_together_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_media, "_HELD_PIXELS", 191)
    (media,) = take(ApiOptions(), frames_url(*[jpeg()] * 3))
    with refused(413, "the frames have 192 pixels together"), media.opened(ApiOptions()):
        pass


def test_a_file_that_changes_while_it_is_read_is_not_known_by_its_old_name(folder: Path) -> None:
    options = ApiOptions(media_root=folder)
    file = folder / "deep" / "a clip.mp4"
    (media,) = take(options, file.as_uri())
    with refused(422, r"^part\[0\]: it has changed while it was read"), media.opened(options):
        file.write_bytes(CLIP_BYTES + b"more")


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:4,\n{clip}\n", "ffconcat version 1.0\nfile {clip}\n"])
def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, text: str) -> None:
    playlist = text.format(clip=CLIP).encode()
    (media,) = take(ApiOptions(), data_url(playlist))
    with refused(422, r"^part\[0\]: not a video that is taken from others"), media.opened(ApiOptions()):
        pass
    (tmp_path / "list.mp4").write_bytes(playlist)
    with pytest.raises(SourceFormatError, match="in a container that names no other file"):
        check_self_contained(tmp_path / "list.mp4")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (data_url(CLIP_BYTES[:2000]), "video"),
        (frames_url(jpeg()[:-200]), "video"),
        (frames_url(b""), "video"),
        (data_url(b"BM", "image/bmp"), "picture"),
        (data_url(b"%!PS", "image/eps"), "picture"),
    ],
)
def test_what_cannot_be_read_is_told_without_names_of_files(url: str, kind: str) -> None:
    (media,) = take(ApiOptions(), url, kind=kind)
    with refused(422, r"^part\[0\]: not a") as told, media.opened(ApiOptions()):
        pass
    assert "/" not in told.value.message.replace("webm, mkv", "")


def test_frames_of_one_size() -> None:
    (media,) = take(ApiOptions(), frames_url(jpeg(), jpeg(cols=9)))
    with refused(400, "the frames differ in size"), media.opened(ApiOptions()):
        pass


def test_frames_have_their_times() -> None:
    (media,) = take(ApiOptions(), frames_url(*(jpeg(level=level) for level in (10, 100, 200))), fps=0.5)
    with media.opened(ApiOptions()) as source:
        shown = [(frame.pts_seconds, int(frame.image.mean())) for frame in source]
    assert [seconds for seconds, _ in shown] == [0, 2, 4]
    assert np.abs(np.subtract([level for _, level in shown], [10, 100, 200])).max() <= 2
