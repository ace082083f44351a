"""The embedded world: clips and endless streams of moving shapes with questions, pure functions of a seed.

Frames are 96 x 96 pixels, one visual token of the embedded model sees a 16 x 16 cell of them. Seeds,
background textures and question wordings of the splits ``train`` and ``eval`` are disjoint by construction.
"""

from __future__ import annotations

from streamprune.embedded.world.clips import Clip, clip, upscale
from streamprune.embedded.world.questions import GROUPS, QUESTION_TYPES, Question
from streamprune.embedded.world.streams import Event, Stream, StreamQuestion, stream

__all__ = [
    "GROUPS",
    "QUESTION_TYPES",
    "Clip",
    "Event",
    "Question",
    "Stream",
    "StreamQuestion",
    "clip",
    "stream",
    "upscale",
]
