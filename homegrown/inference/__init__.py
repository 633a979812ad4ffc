"""Text generation: sampling, batching, streaming, conversations."""
