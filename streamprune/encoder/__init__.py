"""Stage 2, inside the vision tower: what to recompute or merge. Nothing lives here yet."""
