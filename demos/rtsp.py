"""Ask a network camera the same question again and again; one that vanishes is waited for, and told.

python demos/rtsp.py rtsp://USER:PASSWORD@CAMERA/PATH "what can be seen?" [--every 5] [--seconds 3600]
python demos/rtsp.py --serve      # plays a clip of this folder from an RTSP server of its own
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from make_clips import CLIPS
from rtsp_loopback import RtspServer

import streamprune as sp


def main() -> None:
    """Print an answer, and how the camera is doing, every few seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("question", nargs="?", default="which color is the square?")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--every", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    if bool(args.url) == args.serve:
        parser.error("give the URL of a camera, or --serve")

    with ExitStack() as held:
        vlm = sp.load(args.model)
        if args.serve:
            args.url = held.enter_context(RtspServer(film=CLIPS / "square_parade.mp4")).url("/film")
        live = held.enter_context(vlm.open_stream(fps=2))
        feed = live.push_from(args.url, fps=2)
        until = time.monotonic() + args.seconds
        while time.monotonic() < until and not feed.join(args.every):
            health = feed.health()
            if health is None or not live.stats().tokens_in:
                continue
            state = f"{len(health.gaps)} gaps" if health.connected else f"lost ({health.error})"
            print(f"{live.stats().newest_seconds:.1f} s, {state}: {live.ask(args.question)}")


if __name__ == "__main__":
    main()
