"""What is remembered: features on disk, tower caches, cache layers, memory. Nothing lives here yet."""
