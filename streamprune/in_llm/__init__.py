"""Stage 4, between two layers of the language model: which visual tokens go on. One file per method."""
