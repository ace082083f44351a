"""Stage 1, when to look: each method turns a `VideoInfo` into the seconds at which frames are fetched.

Methods are pure: they open nothing and decode nothing. `Source.sample` fetches the frames.
"""

from __future__ import annotations

from streamprune.frames.base import FrameMethod
from streamprune.frames.fps import Fps
from streamprune.frames.keyframes import Keyframes
from streamprune.frames.timestamps import Timestamps
from streamprune.frames.uniform import Uniform

__all__ = ["Fps", "FrameMethod", "Keyframes", "Timestamps", "Uniform"]
