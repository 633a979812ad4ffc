"""The recipe: every setting of a run, typed, one model per stage.

The values themselves, `tiny` to `large`, live in `pipelines.yaml`, the one place that Prefect, the command line and
the tests read. A field has a default only where a published or measured value stands behind it; what makes one
pipeline differ from another has none, so a recipe that leaves it out is refused and never silently small.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- corpus -----------------------------------------------------------------------------------------------------------


class Source(Settings):
    """What every source has: a name, and a limit so that one source cannot drown the others."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the source, kept with each document.")
    limit_mb: float | None = Field(
        default=None, gt=0, description="Stop after this much text, in megabytes (10^6 bytes)."
    )


class FilesSource(Source):
    """A file, a folder (searched through) or a glob: .txt .md .jsonl(.gz .zst) .csv .parquet."""

    kind: Literal["files"] = "files"
    path: str = Field(description="File, folder or glob, relative to the working directory.")
    text_column: str = Field(default="text", description="Column or key that holds the text, in files with columns.")


class PackagesSource(Source):
    """The documentation (docstrings) of the Python packages installed on this machine."""

    kind: Literal["packages"] = "packages"


class HubSource(Source):
    """A dataset of the Hugging Face hub, or a local folder that `datasets` can load, streamed."""

    kind: Literal["hub"] = "hub"
    dataset: str = Field(description="Repository, such as roneneldan/TinyStories, or a local folder.")
    config: str | None = Field(default=None, description="Configuration of the dataset.")
    split: str = Field(default="train", description="Split to read.")
    revision: str | None = Field(default=None, description="Commit or tag; name one for a run that can be repeated.")
    text_column: str = Field(default="text", description="Column that holds the text.")


AnySource = Annotated[FilesSource | PackagesSource | HubSource, Field(discriminator="kind")]


class IngestSettings(Settings):
    """Where the text comes from."""

    sources: list[AnySource] = Field(min_length=1)
    shard_mb: float = Field(
        default=16, gt=0, description="Text in one shard, in megabytes; a shard is the unit of work."
    )
    max_document_mb: float = Field(default=20, gt=0, description="A longer document is quarantined.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources must have different names, not {', '.join(names)}")
        return self


class DedupSettings(Settings):
    """Exact and MinHash-LSH near-duplicates (Broder 1997; Lee et al. 2022)."""

    shingle_words: Positive = Field(default=5, description="Words in one shingle.")
    bands: Positive = Field(default=21, description="Bands of the signature; a pair that agrees in one is a candidate.")
    rows: Positive = Field(default=6, description="Rows in a band; bands x rows permutations.")
    bands_for: Share | None = Field(
        default=None,
        description="Choose bands and rows for this Jaccard similarity, within bands x rows; null: take them as given.",
    )
    threshold: Share = Field(default=0.7, description="Jaccard similarity from which two documents are duplicates.")
    verification: Literal["jaccard", "signature"] = Field(
        default="jaccard",
        description="What candidates are compared by: their sets of shingles, or only signatures (faster, less disk).",
    )
    keep: Literal["longest", "first", "best_quality"] = Field(
        default="longest", description="Which document of a cluster stays; first: in the order of the sources."
    )


class FilterSettings(Settings):
    """Rules that a document must pass."""

    min_characters: Count = Field(description="Shortest document kept.")
    max_characters: Positive = Field(description="Longest document kept.")
    min_alphabetic_share: Share = Field(description="Least share of letters, white space not counted.")
    max_duplicate_line_share: Share = Field(
        default=0.3, description="Most duplicate lines (Rae et al. 2021, table A1)."
    )
    max_top_bigram_share: Share = Field(
        default=0.2, description="Most characters in the commonest 2-gram (Rae et al. 2021, table A1)."
    )
    languages: list[str] = Field(default=[], description="ISO 639-1 codes to keep; empty: all, without asking.")


class ShardSettings(Settings):
    """Shuffling and splitting into train, validation and test."""

    validation_share: float = Field(gt=0, lt=0.5, description="Share of documents held out to watch training.")
    test_share: float = Field(gt=0, lt=0.5, description="Share of documents held out for evaluation.")
    shard_mb: float = Field(default=16, gt=0, description="Text in one shard, in megabytes.")
    max_similarity: Share = Field(
        default=0.5, description="A training document this similar (Jaccard) to a held-out one is dropped."
    )
    decontaminate: list[str] = Field(
        default=[],
        description="Files of evaluations; a training document that shares a run of words with one is dropped.",
    )
    decontamination_words: Positive = Field(
        default=13, description="Words in such a run (Brown et al. 2020, appendix C)."
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


class TokenizerSettings(Settings):
    """Byte-level BPE."""

    vocabulary_size: int = Field(ge=263, le=1_000_000, description="Tokens, the 7 special ones and 256 bytes included.")
    sample_mb: float = Field(gt=0, description="Most text to train on, in megabytes: it bounds memory.")


class PackSettings(Settings):
    """Token shards."""

    shard_tokens: Positive = Field(default=50_000_000, description="Tokens in one memory-mapped shard.")


# --- model and training -----------------------------------------------------------------------------------------------


class ModelSettings(Settings):
    """The transformer's shape. Both families are decoder-only."""

    family: Literal["modern", "classic"] = Field(description="modern: Qwen3's layout; classic: the guide's own.")
    hidden: Positive = Field(description="Width of the embedding and the residual stream.")
    layers: Positive
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads; equal to heads for plain multi-head attention.")
    feed_forward: Positive = Field(description="Inner width of the feed-forward block.")
    context: Positive = Field(description="Longest sequence, in tokens.")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden / heads ({self.hidden // self.heads}) must be even, for rotary positions")
        for name in ("hidden", "feed_forward"):
            if getattr(self, name) % 64:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of 64, which 4-bit weights need")
        if self.family == "classic" and self.kv_heads != self.heads:
            raise ValueError("the classic family has as many kv_heads as heads")
        return self


class TrainingSettings(Settings):
    """The pretraining loop."""

    max_steps: Positive = Field(description="Optimizer steps.")
    batch_size: Positive = Field(description="Sequences in one optimizer step, over all workers and accumulation.")
    micro_batch_size: Positive = Field(description="Sequences in one forward pass of one worker; memory bounds it.")
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    final_learning_rate_share: Share = Field(default=0.1, description="Share of the peak left at the last step.")
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_steps: Count
    weight_decay: float = Field(ge=0, description="Decoupled decay of the matrices; gains and biases have none.")
    beta1: Share = 0.9
    beta2: Share = 0.95
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    dropout: float = Field(ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device computes in it, fp16 on older GPUs, else fp32."
    )
    validate_every: Positive = Field(description="Steps between validations.")
    validation_tokens: Positive = Field(description="Most tokens of the validation split to use each time.")
    patience: Positive | None = Field(
        default=None, description="Stop after this many validations without improvement; null: never."
    )
    checkpoint_every: Positive = Field(description="Steps between checkpoints: at most so much work is lost.")
    sample_every: Positive = Field(description="Steps between samples.")
    sample_prompts: list[str] = Field(description="Prompts of the samples; an empty one starts a document.")
    sample_tokens: Positive = 64

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self


# --- after training ---------------------------------------------------------------------------------------------------

Variant = Literal["int8", "nf4", "int8-dynamic"]


class QuantizationSettings(Settings):
    """Which smaller variants of the weights to make."""

    variants: list[Variant] = Field(description="int8, nf4: bitsandbytes; int8-dynamic: PyTorch.")


class EvaluationSettings(Settings):
    """What is measured on held-out text, for every variant of the weights."""

    perplexity_tokens: Positive = Field(description="Most tokens of the test split for perplexity.")
    samples: Positive = Field(description="Held-out documents to continue, for BLEU and ROUGE.")
    prompt_tokens: Positive = Field(description="Tokens of the document that are given.")
    continuation_tokens: Positive = Field(description="Tokens to write, and of the reference to compare with.")


class ComputeSettings(Settings):
    """How to use this machine. Enters no artifact's key: it changes how long a run takes, not what it makes."""

    workers: Count = Field(default=0, description="Processes for the shards of a stage; 0: one for each processor.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Positive = Field(default=1, description="Training processes (one for each GPU).")
    memory_gb: float = Field(default=2, gt=0, description="Memory that DuckDB may use before it spills to disk.")


class Recipe(Settings):
    """A whole run, from raw text to the evaluation table."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: Count = Field(description="All randomness comes from it.")
    ingest: IngestSettings
    dedup: DedupSettings
    filter: FilterSettings
    shard: ShardSettings
    tokenizer: TokenizerSettings
    pack: PackSettings
    model: ModelSettings
    training: TrainingSettings
    quantization: QuantizationSettings
    evaluation: EvaluationSettings
    compute: ComputeSettings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.evaluation.prompt_tokens + self.evaluation.continuation_tokens > self.model.context:
            raise ValueError(
                f"prompt_tokens + continuation_tokens of evaluation must fit model.context ({self.model.context})"
            )
        if self.shard.validation_share + self.shard.test_share >= 0.5:
            raise ValueError("shard.validation_share + shard.test_share must leave at least half for training")
        return self
