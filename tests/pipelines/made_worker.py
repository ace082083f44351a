"""A worker of a batch without a model: what it does with a video is in the name of the file.

python tests/pipelines/made_worker.py    speaks what streamprune.pipelines.batch_worker speaks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SECONDS_PER_ANSWER = 0.005


def main() -> None:
    """Answer until stdin ends."""
    start = json.loads(sys.stdin.readline())
    if start["settings"]["model"] == "dies":
        sys.exit("no room for the model")
    say({"ready": True})
    for line in sys.stdin:
        group = json.loads(line)
        behave(Path(group["video"]), group)
        say({"done": group["number"], "decode_seconds": 0.001, "model_seconds": 0.002})


def behave(video: Path, group: dict[str, Any]) -> None:
    """Answer, or fail as the video's name says."""
    name, questions = video.stem, group["questions"]
    if name.startswith("missing"):
        for one in questions:
            say({"row": {"id": one["id"], "error": f"{video.name}: no such file"}})
        return
    if name.startswith("fatal"):
        say({"fatal": {"kind": "RecipeError", "message": "no video can be asked with this recipe"}})
        sys.stdin.read()
    for one in questions:
        second = one["id"].endswith("-1")
        if second and name.startswith("crash"):
            sys.exit("last words")
        if second and name.startswith("kill"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if second and name.startswith("once") and not video.with_suffix(".died").exists():
            video.with_suffix(".died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SECONDS_PER_ANSWER)
        say({"row": {"id": one["id"], "text": f"{name}: {one['prompt']}"}})


def say(message: dict[str, Any]) -> None:
    """One line on stdout."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
