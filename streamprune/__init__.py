"""Token pruning, merging and caching for video language models on stock transformers."""
