"""Frames in: files, folders of images, arrays and iterators, all as `Frame` objects with exact times.

    with open_source("talk.mp4") as source:
        frames = source.sample([0.0, 12.5, 60.0])   # the frames shown at these seconds
        for frame in source:                        # or all of them, decoded ahead in a thread
            ...

Knows nothing about models or about which times are worth looking at (that is `streamprune.frames`). Importing
it loads no video library; the backend is loaded when a file is opened.
"""

from __future__ import annotations

from streamprune.readers.base import Frame, VideoInfo
from streamprune.readers.opening import open_source
from streamprune.readers.report import ReadReport
from streamprune.readers.source import Source

__all__ = ["Frame", "ReadReport", "Source", "VideoInfo", "open_source"]
