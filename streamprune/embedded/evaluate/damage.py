"""What files do to pictures: H.264 and JPEG, there and back."""

from __future__ import annotations

import io

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from streamprune.embedded.world import upscale

FILE_SIDE = 192


def _shrink(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize as the model's own preprocessing does (uint8, bicubic, antialiased)."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())


def h264(frames: NDArray[np.uint8], crf: int, repeats: int = 4) -> NDArray[np.uint8]:
    """Encode frames (n, 96, 96, 3) as 192-pixel H.264, each shown ``repeats`` times, and decode them."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as sink:
        track = sink.add_stream("libx264", rate=8, options={"crf": str(crf), "threads": "1"})
        track.width = track.height = FILE_SIDE
        track.pix_fmt = "yuv420p"
        for frame in upscale(frames, FILE_SIDE):
            for _ in range(repeats):
                sink.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        sink.mux(track.encode())
    memory.seek(0)
    with av.open(memory, "r") as source:
        decoded = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    return _shrink(np.stack(decoded[repeats // 2 :: repeats]), frames.shape[1])


def jpeg(frames: NDArray[np.uint8], quality: int, side: int = FILE_SIDE) -> NDArray[np.uint8]:
    """Store each frame as a JPEG of ``side`` pixels and read it again."""
    read = []
    for frame in frames if side == frames.shape[1] else upscale(frames, side):
        memory = io.BytesIO()
        Image.fromarray(frame).save(memory, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(memory)))
    pictures = np.stack(read)
    return pictures if side == frames.shape[1] else _shrink(pictures, frames.shape[1])
