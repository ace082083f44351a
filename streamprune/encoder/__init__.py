"""Stage 2, inside the vision tower: what to merge or leave out on the way up. One file per method."""
