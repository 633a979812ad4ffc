"""Independent seeds per stage, shard or step, derived from the seed of the recipe."""

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends only on `seed` and the names."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
