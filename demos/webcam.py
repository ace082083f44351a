"""Ask what a webcam sees, at any moment, in memory that never grows.

python demos/webcam.py [CAMERA, URL or FILE] [--model embedded] [--fps 2] [--memory-bytes 256MB]
"""

from __future__ import annotations

import argparse
import sys

import streamprune as sp


def main() -> None:
    """Frames go in by themselves; every line typed is a question about what was seen up to then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", nargs="?", default="0")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--fps", type=float, default=2)
    parser.add_argument("--memory-bytes", default="256MB")
    args = parser.parse_args()

    source: str | int = int(args.source) if args.source.isdecimal() else args.source
    vlm = sp.load(args.model)
    with vlm.open_stream(fps=args.fps, memory_bytes=args.memory_bytes) as live:
        feed = live.push_from(source, fps=args.fps)
        while feed.alive and not live.stats().tokens_in:
            feed.join(0.1)
        print("Ask, one question a line; an empty line ends.")
        for line in sys.stdin:
            if not line.strip():
                break
            answer = live.ask(line)
            seconds, held = live.stats().newest_seconds, sum(live.stats().held.values())
            print(f"  {answer}  ({seconds:.1f} s seen, {held:,} bytes held)")


if __name__ == "__main__":
    main()
