"""Measuring the embedded model; run it with ``python -m streamprune.embedded.evaluate``."""
