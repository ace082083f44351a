"""Stage 1, when to look: each method turns a `VideoInfo` into the seconds at which frames are fetched.

Methods are pure: they open nothing and decode nothing. `Source.sample` fetches the frames. Those that decide
by what is in the video say which candidates they want to know about, and choose from `Previews` of them.
"""

from __future__ import annotations

from streamprune.frames.base import FrameMethod
from streamprune.frames.content import ContentMethod, Previews, RelevanceMethod
from streamprune.frames.fastvid import FastVIDFrames
from streamprune.frames.fps import Fps
from streamprune.frames.holitom import HoliTomFrames
from streamprune.frames.keyframes import Keyframes
from streamprune.frames.metok import METokFrames
from streamprune.frames.mobile_videogpt import MobileVideoGPT
from streamprune.frames.prunevid import PruneVidFrames
from streamprune.frames.quota import Quota
from streamprune.frames.scene import Scene
from streamprune.frames.timestamps import Timestamps
from streamprune.frames.uniform import Uniform
from streamprune.frames.vilamp import ViLaMPFrames

__all__ = [
    "ContentMethod",
    "FastVIDFrames",
    "Fps",
    "FrameMethod",
    "HoliTomFrames",
    "Keyframes",
    "METokFrames",
    "MobileVideoGPT",
    "Previews",
    "PruneVidFrames",
    "Quota",
    "RelevanceMethod",
    "Scene",
    "Timestamps",
    "Uniform",
    "ViLaMPFrames",
]
