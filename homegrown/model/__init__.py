"""The transformer, its weights on disk, its KV cache and generation."""
