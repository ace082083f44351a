"""What a run cost: FLOPs, bytes, time."""
