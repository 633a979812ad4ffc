"""Token shards: packing of documents and conversations, and the loader for training."""
