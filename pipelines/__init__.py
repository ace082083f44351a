"""What a user runs: ``offline`` answers questions about videos that are already there."""
