"""The transformer, its weights on disk and its KV cache."""
