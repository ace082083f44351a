"""What released implementations take, to stand beside ours.

Measured once on one CPU thread with the copies that the authors published, on 32 x 14 x 14 x 3584 float32 at
keep 0.1 (the setting of each that comes nearest), in the units of :mod:`streamprune.metrics.units`.
"""

from __future__ import annotations

RELEASED_UNITS: dict[str, float] = {
    "aim": 9.0,
    "cdpruner": 4.0,
    "divprune": 120.0,
    "dycoke": 1.6,
    "evs": 4.0,
    "fastvid": 12.0,
    "flashvid": 9.0,
    "holitom": 8.0,
    "prunevid": 14.0,
    "stc": 5.5,
    "tome": 5.0,
    "vidcom2": 7.5,
    "vispruner": 22.0,
    "visionzip": 21.0,
}
