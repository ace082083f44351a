"""Training of the embedded model from scratch; run it with ``python -m streamprune.embedded.train``."""
