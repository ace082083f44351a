"""Pictures of a made-up camera, for measuring what a tower saves that remembers frames before."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamprune.errors import UnknownNameError

Scene = Literal["static", "busy"]
SCENES: tuple[Scene, ...] = get_args(Scene)

# of a camera's sensor, in steps of 255
_NOISE = 2.0
# side of what moves before a static camera, as a share of the picture's, and its way from frame to frame
_THING, _STEP = 0.25, 0.03


def made_stream(scene: Scene, frames: int, side: int) -> NDArray[np.uint8]:
    """(frames, side, side, 3) pictures of ``scene``, the same ones whenever asked.

    ``static``: the camera stands, and a textured square of a sixteenth of the picture goes to and fro.
    ``busy``: the camera swings round, so that every patch changes in every frame. Both have the noise of a
    camera's sensor.
    """
    if scene not in SCENES:
        raise UnknownNameError.among("scene", scene, SCENES)
    draw = np.random.default_rng(7)
    thing, step = max(1, round(_THING * side)), max(1, round(_STEP * side))
    wide = side + step * frames if scene == "busy" else side
    ground, texture = _texture(draw, side, wide), _texture(draw, thing, thing)
    room = side - thing
    shown = np.empty((frames, side, side, 3), dtype=np.uint8)
    for number in range(frames):
        left = step * number if scene == "busy" else 0
        picture = ground[:, left : left + side].copy()
        if scene == "static":
            place = abs((step * number + room) % (2 * room) - room) if room else 0
            picture[room // 2 : room // 2 + thing, place : place + thing] = texture
        picture += draw.normal(0, _NOISE, picture.shape)
        shown[number] = picture.round().clip(0, 255)
    return shown


def _texture(draw: np.random.Generator, rows: int, cols: int) -> NDArray[np.float64]:
    """(rows, cols, 3): patches of colour of any size, between 40 and 215."""
    whole = np.zeros((rows, cols, 3))
    for cell in (4, 16, 64):
        coarse = draw.random((-(-rows // cell), -(-cols // cell), 3))
        whole += coarse.repeat(cell, 0).repeat(cell, 1)[:rows, :cols]
    return np.asarray(40 + 175 * whole / 3)
