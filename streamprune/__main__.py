"""``python -m streamprune`` and the ``streamprune`` command."""

from __future__ import annotations

from streamprune.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="streamprune")


if __name__ == "__main__":
    main()
