"""Stage 5, which KV cache entries stay. Nothing lives here yet."""
