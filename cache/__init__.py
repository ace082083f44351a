"""What is remembered: features on disk, tower caches, KV cache layers, tiered memory. Nothing lives here yet."""
