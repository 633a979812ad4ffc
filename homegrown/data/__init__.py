"""Token shards: packing, instruction data, and the loader that training reads them with."""
