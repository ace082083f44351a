"""Frames in: files, folders of images, arrays and iterators, all as `Frame` objects with exact times.

    with open_source("talk.mp4") as source:
        frames = source.sample([0.0, 12.5, 60.0])   # the frames shown at these seconds
        for frame in source:                        # or all of them, decoded ahead in a thread
            ...

Cameras, RTSP and HTTP streams and pipes open in the same way and go on until they are closed:

    with open_source("rtsp://camera.local/stream", fps=2) as camera:
        for frame in camera:
            print(frame.pts_seconds, camera.health())

Knows nothing about models or about which times are worth looking at (that is `streamprune.frames`). Importing
it loads no video library; the backend is loaded when a file is opened.
"""

from __future__ import annotations

from streamprune.readers.base import Frame, VideoInfo
from streamprune.readers.health import Gap, Health
from streamprune.readers.live import LiveSource
from streamprune.readers.opening import open_source
from streamprune.readers.report import ReadReport
from streamprune.readers.source import Source

__all__ = ["Frame", "Gap", "Health", "LiveSource", "ReadReport", "Source", "VideoInfo", "open_source"]
