"""Clips of the embedded world as H.264 files, for measuring where nobody gave a video."""

from __future__ import annotations

from pathlib import Path

import av

from streamprune.embedded.world import clip, upscale

_SEED = 20261123
# pictures a second
_FPS = 12


def write_made_video(path: Path, *, seed: int = 0, pictures: int = 96, side: int = 384) -> Path:
    """Write one clip of ``pictures`` frames of ``side`` x ``side`` pixels, the same for the same seed."""
    made = clip(_SEED + seed, frames=pictures, split="eval", questions=0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for first in range(0, pictures, _FPS):
            frames = made.render_frames(range(first, min(first + _FPS, pictures)))
            for picture in upscale(frames, side):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
