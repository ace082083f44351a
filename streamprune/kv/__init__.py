"""Stage 5: which entries of the key-value cache stay."""
