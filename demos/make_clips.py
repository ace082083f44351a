"""Write clips of the embedded world as H.264 files with their questions and answers beside them.

python demos/make_clips.py            # the two clips in demos/clips (they are shipped; this made them)
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av

from streamprune.embedded import world

CLIPS = Path(__file__).parent / "clips"
PIXELS = 192
# shipped clips: file name -> seed of the evaluation split, never seen in training
SEEDS = {"square_parade": 20261121, "hidden_digit": 20261122}


def write_clip(clip: world.Clip, path: Path, seconds_per_picture: Fraction, fps: int = 10) -> None:
    """Encode ``clip`` as H.264, each picture shown for ``seconds_per_picture``; questions go into a .json."""
    repeats = int(seconds_per_picture * fps)
    partial = path.with_suffix(".partial.mp4")  # a half-written film must not look like a whole one
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "veryfast"})
        stream.width = stream.height = PIXELS
        stream.pix_fmt = "yuv420p"
        for picture in clip.render(PIXELS):
            for _ in range(repeats):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    asked = [{"question": q.text, "answer": q.answer, "type": q.type} for q in clip.questions]
    path.with_suffix(".json").write_text(json.dumps({"seed": clip.seed, "questions": asked}, indent=2) + "\n")
    partial.replace(path)


def main() -> None:
    """Write the two shipped clips."""
    for name, seed in SEEDS.items():
        clip = world.clip(seed, frames=16, split="eval", questions=4)
        write_clip(clip, CLIPS / f"{name}.mp4", Fraction(1, 2))


if __name__ == "__main__":
    main()
