"""``python -m streamprune`` and the ``streamprune`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it with 130 from the first import on."""
    try:
        from streamprune.cli import app

        app(prog_name="streamprune")
    except KeyboardInterrupt:
        print("Error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
