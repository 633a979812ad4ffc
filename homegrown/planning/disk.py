"""Disk space that the artifacts of a recipe take."""

from homegrown.config.export import Variant
from homegrown.config.recipe import Recipe
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import adapter_of, trained_parameters
from homegrown.planning.memory import average_bytes, moments
from homegrown.planning.text import bytes_per_token

_SHARDS_SHARE = 1.35
"""Bytes of all shards of ingest, dedup, filter and shard per byte of text, measured with `tiny`."""

_SPILL_SHARE = 1.0
"""Bytes that DuckDB spills while it sorts and joins, per byte of text; it frees them afterwards."""

_VARIANT_BYTES: dict[Variant, float] = {
    **dict.fromkeys(("int8", "int8-dynamic", "torchao-int8", "q8_0"), 1.1),
    **dict.fromkeys(("nf4", "nf4-double", "fp4", "fp4-double", "torchao-int4", "q4_0", "q4_k_m"), 0.65),
    "q5_k_m": 0.75,
    "q6_k": 0.85,
}
"""Bytes per parameter, scales included; many variants keep embeddings as they are, which makes small models larger."""


def disk_needed(recipe: Recipe, config: ModelConfig, text_bytes: int | None) -> int:
    """Return the bytes of the artifacts of one run: its model, and its text if the size is known.

    Checkpoints hold trained weights, their average and moments: those kept, the best one, and the one being written;
    during the decay of wsd also those before it.
    """
    parameters, adapter = config.parameter_count(), adapter_of(recipe)
    checkpoint = 4 * trained_parameters(config, adapter) + moments(config, recipe.training, adapter)
    checkpoint += average_bytes(config, recipe.training, adapter)
    weights, kept = 4 * parameters, recipe.training.keep_checkpoints + 2
    if recipe.training.schedule == "wsd":
        kept += recipe.training.keep_checkpoints - 1
    variants = sum(_VARIANT_BYTES[variant] * parameters for variant in recipe.quantization.variants)
    model = kept * checkpoint + weights + variants
    if text_bytes is None:
        return int(model)
    token_bytes = 2 if config.vocabulary_size <= 2**16 else 4
    tokens = text_bytes / bytes_per_token(config.vocabulary_size) * token_bytes
    return int(model + text_bytes * (_SHARDS_SHARE + _SPILL_SHARE) + tokens)
