"""The arithmetic of a training run: operations, bytes moved, and the compute-optimal number of tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from homegrown.config.adaptation import Projection
from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.config.model import ModelSettings
from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

AnyRecipe = Recipe | FinetuneRecipe

COMPUTE_OPTIMAL_TOKENS = 20
"""Tokens per parameter at which a compute budget gives the lowest loss: Hoffmann et al. 2022, table 3, the first of
their three approaches (400 million parameters and 8.0 billion tokens, 1 billion and 20.2 billion)."""

WORTHWHILE_EPOCHS = 4
"""Epochs of the same text that are nearly as good as new text (Muennighoff et al. 2023, section 6)."""


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter on frozen weights, in 16 bits or (qlora) in 4; `embeddings` are trained beside it."""

    method: Literal["lora", "qlora"]
    rank: int
    dropout: float
    targets: tuple[Projection, ...]
    embeddings: bool = False


def adapter_of(recipe: AnyRecipe) -> Adapter | None:
    """Return the adapter that a recipe trains; None if it trains all weights."""
    settings = recipe.finetuning if isinstance(recipe, FinetuneRecipe) else recipe.adaptation
    if settings is None or settings.method == "full":
        return None
    embeddings = recipe.adaptation is not None and recipe.adaptation.embeddings if isinstance(recipe, Recipe) else False
    return Adapter(settings.method, settings.rank, settings.dropout, tuple(settings.targets), embeddings)


def config_of(recipe: AnyRecipe, store: Store) -> ModelConfig:
    """Return the configuration of the recipe's model: a new one, or its base, in pretraining with the recipe's context.

    Raises:
        UserError: the base or the tokenizer at `tokenizer.path` cannot be used.
    """
    if recipe.base is not None:
        from homegrown.export.bases import base_config

        if isinstance(recipe, FinetuneRecipe):
            return replace(base_config(recipe.base, store), dropout=recipe.training.dropout)
        return replace(base_config(recipe.base, store), context=recipe.context, dropout=recipe.training.dropout)
    vocabulary_size = recipe.tokenizer.vocabulary_size
    if recipe.tokenizer.path is not None:
        from homegrown.tokenizer.existing import completed, take

        vocabulary_size = completed(take(Path(recipe.tokenizer.path))).get_vocab_size()
    return ModelConfig.from_settings(recipe.new_model, vocabulary_size, recipe.training.dropout)


def shape_of(recipe: AnyRecipe, config: ModelConfig) -> ModelSettings:
    """Return the shape of the recipe's model as settings of a new one, to measure its speed.

    Raises:
        UserError: a base has sizes that no new model has.
    """
    if isinstance(recipe, Recipe) and recipe.model is not None:
        return recipe.model
    try:
        return ModelSettings(
            family=config.family,
            hidden=config.hidden,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            feed_forward=config.feed_forward,
            context=config.context,
            tied=config.tied,
        )
    except ValidationError as error:
        raise UserError(
            f"The speed of a model like {recipe.base} cannot be measured here; estimate it with --gpu."
        ) from error


def block_matrices(config: ModelConfig) -> list[tuple[int, int]]:
    """Return the shapes, outputs by inputs, of the weight matrices of one block."""
    return list(projections(config).values())


def projections(config: ModelConfig) -> dict[Projection, tuple[int, int]]:
    """Return the shapes, outputs by inputs, of the weight matrices of one block by their names."""
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    shapes: dict[Projection, tuple[int, int]] = {
        "q_proj": (queries, config.hidden),
        "k_proj": (keys, config.hidden),
        "v_proj": (keys, config.hidden),
        "o_proj": (config.hidden, queries),
    }
    if config.family == "modern":
        shapes["gate_proj"] = config.feed_forward, config.hidden
    return shapes | {"up_proj": (config.feed_forward, config.hidden), "down_proj": (config.hidden, config.feed_forward)}


def targeted(config: ModelConfig, adapter: Adapter) -> list[tuple[int, int]]:
    """Return the shapes of the matrices of one block that have an adapter."""
    return [shape for name, shape in projections(config).items() if name in adapter.targets]


def vocabulary_matrices(config: ModelConfig) -> int:
    """Return the weights of embedding and output projection; a tied matrix counts once."""
    return config.vocabulary_size * config.hidden * (1 if config.tied else 2)


def vocabulary_parameters(config: ModelConfig) -> int:
    """Return the weights with a row for each token, biases included."""
    return vocabulary_matrices(config) + (config.vocabulary_size if config.family == "classic" else 0)


def trained_parameters(config: ModelConfig, adapter: Adapter | None) -> int:
    """Return the number of weights that training changes."""
    if adapter is None:
        return config.parameter_count()
    matrices = config.layers * adapter.rank * sum(rows + columns for rows, columns in targeted(config, adapter))
    return matrices + (vocabulary_parameters(config) if adapter.embeddings else 0)


def flops_per_token(config: ModelConfig, adapter: Adapter | None) -> int:
    """Return the operations to train on one token; those of an adapter itself are not counted."""
    return config.flops_per_token(frozen=adapter is not None)


def hidden_parameters(config: ModelConfig) -> int:
    """Return the number of weights that Muon trains: those of the matrices of all blocks."""
    return config.layers * sum(rows * columns for rows, columns in block_matrices(config))


def compute_optimal_tokens(parameters: int) -> int:
    """Return D = 20 N, the training tokens at which N parameters make the best use of 6 N D operations."""
    return COMPUTE_OPTIMAL_TOKENS * parameters


def step_tokens(config: ModelConfig, settings: TrainingSettings) -> int:
    """Return the tokens of one optimizer step."""
    return settings.batch_size * config.context


def recomputed_flops_per_token(config: ModelConfig) -> int:
    """Return the operations that activation checkpointing adds per token: a second forward pass of the blocks."""
    return 2 * hidden_parameters(config) + 4 * config.layers * config.heads * config.head_size * config.context


def optimizer_flops(config: ModelConfig, settings: TrainingSettings) -> int:
    """Return the operations of one update that are not elementwise: Muon's matrix products, none for AdamW.

    Each Newton-Schulz step for a matrix of m x n, m the smaller, computes X X^T (2 m^2 n), its square (2 m^3), and
    their sum times X (2 m^2 n): Jordan et al. 2024.
    """
    if settings.optimizer == "adamw":
        return 0
    sizes = [(min(shape), max(shape)) for shape in block_matrices(config)]
    return config.layers * settings.orthogonalization_steps * sum(4 * m * m * n + 2 * m**3 for m, n in sizes)


def optimizer_bytes(config: ModelConfig, settings: TrainingSettings, adapter: Adapter | None = None) -> int:
    """Return the bytes that one update reads and writes in float32, each tensor once.

    Per parameter, the norm and the clipping of the gradient take 12 bytes. AdamW reads weight, gradient and two
    moments and writes all but the gradient: 28 bytes. Muon has one moment: 20 bytes.
    """
    every = trained_parameters(config, adapter)
    with_muon = hidden_parameters(config) if settings.optimizer == "muon" else 0
    return 12 * every + 28 * (every - with_muon) + 20 * with_muon
