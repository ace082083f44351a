"""Ask a long video several questions with a tenth of its visual tokens.

python demos/long_video_qa.py VIDEO "QUESTION" ["QUESTION" ...] [--model NAME] [--keep-ratio 0.1]
"""

from __future__ import annotations

import argparse

import streamprune as sp


def main() -> None:
    """Decode and encode once, answer every question twice: with all tokens and with a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--recipe", default="fastvid")
    parser.add_argument("--keep-ratio", type=float, default=0.1)
    parser.add_argument("--num-frames", type=int, default=16)
    args = parser.parse_args()

    vlm = sp.load(args.model)
    video = vlm.encode(args.video, num_frames=args.num_frames)
    full = vlm.ask(video, args.questions)
    kept = vlm.ask(video, args.questions, recipe=args.recipe, keep_ratio=args.keep_ratio)
    for before, after in zip(full, kept, strict=True):
        print(f"{before.question}\n  all {before.stats.tokens_kept} tokens: {before.text}")
        print(f"  {after.stats.tokens_kept} tokens: {after.text}  ({after.stats.prefill_ms:.0f} ms prefill)")


if __name__ == "__main__":
    main()
