"""Text in: sources, readers, cleaning, deduplication, quality, shards."""
