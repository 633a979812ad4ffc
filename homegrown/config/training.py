"""Settings of the training loop."""

from typing import Literal, Self

from pydantic import Field, model_validator

from homegrown.config.settings import Count, Positive, Settings, Share

Precision = Literal["auto", "bf16", "fp16", "fp32", "fp8"]


class TrainingSettings(Settings):
    """The pretraining loop."""

    max_steps: Positive = Field(description="Optimizer steps.")
    batch_size: Positive = Field(description="Sequences per optimizer step, over all processes and accumulation.")
    micro_batch_size: Positive | Literal["auto"] = Field(
        default="auto",
        description="Sequences per forward pass of one process; auto: as many as fit a GPU's memory, or as a CPU "
        "computes fastest.",
    )
    initialisation: Literal["auto", "random", "heads", "bigrams"] = Field(
        default="auto",
        description="heads: some attention heads start by attending to the preceding tokens; bigrams: in addition, "
        "embedding and output projection start from the bigrams of the training text and learn at an eighth of "
        "learning_rate; auto: bigrams for a modern, untied model that reads its text about once, else heads; random "
        "for classic.",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="muon: Muon for hidden matrices and AdamW for the rest; adamw: AdamW for all."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    matrix_learning_rate: float = Field(default=0.02, gt=0, description="Peak learning rate of Muon.")
    momentum: Share = Field(default=0.95, description="Momentum of Muon; lower is faster in short runs.")
    orthogonalization_steps: Positive = Field(
        default=5, description="Newton-Schulz steps of Muon; 3 nearly halve its cost, which matters for small batches."
    )
    final_learning_rate_share: Share = Field(default=0.1, description="Share of the peak rate after the last step.")
    schedule: Literal["wsd", "cosine", "linear"] = Field(
        default="cosine", description="wsd: warm-up, stable, linear decay."
    )
    decay_share: float = Field(default=0.5, gt=0, le=1, description="Share of the steps in the decay of wsd.")
    decay_steps: Positive | None = Field(
        default=None, description="Steps in the decay of wsd, instead of decay_share; null: decay_share."
    )
    averaging: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the steps so far over which weights are averaged, the latest ones; the average is "
        "validated, sampled and the result; null: the weights of the last step.",
    )
    warmup_steps: Count
    weight_decay: float = Field(ge=0, description="Decoupled weight decay of matrices; gains and biases have none.")
    beta2: Share = Field(default=0.95, description="Second beta of AdamW; the first is 0.9.")
    clip_norm: float = Field(default=1.0, gt=0, description="Maximum norm of the gradients of an optimizer.")
    spike_deviations: float | None = Field(
        default=6,
        gt=0,
        description="Standard deviations of loss or gradient norm above the mean of the last 128 steps at which an "
        "update is skipped; null: only updates that are not finite.",
    )
    rollback_after: Positive = Field(default=8, description="Skipped updates in a row before a rollback.")
    max_rollbacks: Count = Field(default=5, description="Rollbacks before training fails.")
    dropout: float = Field(ge=0, lt=1)
    precision: Precision = Field(
        default="auto",
        description="auto: bf16 if the device supports it, fp16 on older GPUs, else fp32; fp8: matrices of the blocks "
        "multiply in FP8, the rest in bf16 (torchao; a GPU from capability 8.9 on).",
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="torch.compile; auto: if the run is long enough to repay compiling."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute each block in the backward pass instead of saving its activations: a third more work "
        "for a fraction of the memory (Chen et al. 2016).",
    )
    validate_every: Positive = Field(description="Steps between validations.")
    validation_tokens: Positive = Field(description="Maximum tokens per validation.")
    patience: Positive | None = Field(
        default=None,
        description="Validations without improvement before early stopping, which keeps the best step; null: train to "
        "max_steps and keep the last.",
    )
    checkpoint_every: Positive = Field(description="Steps between checkpoints; a crash loses at most these.")
    keep_checkpoints: Positive = Field(
        default=2,
        description="Latest checkpoints to keep, besides the best one; a finished run of wsd keeps the last one and "
        "the latest before its decay, which longer runs extend.",
    )
    sample_every: Positive = Field(description="Steps between samples.")
    sample_prompts: list[str] = Field(description="Prompts of the samples; an empty one starts a document.")
    sample_tokens: Positive = 64

    def unkeyed(self) -> frozenset[str]:
        """See `Settings`: those that change no weights; `validate_every` does only where `patience` counts."""
        names = {"keep_checkpoints", "checkpoint_every", "sample_every", "sample_prompts", "sample_tokens"}
        return frozenset(names if self.patience is not None else {*names, "validate_every"})

    def uneven(self, processes: int, name: str = "compute.processes") -> str | None:
        """Return a message if so many processes, of the setting `name`, cannot share the batch evenly."""
        if self.batch_size % processes:
            return f"{name} ({processes}) must divide training.batch_size ({self.batch_size}); change one of the two"
        if self.micro_batch_size != "auto" and (passes := self.batch_size // self.micro_batch_size) % processes:
            return (
                f"{name} ({processes}) must divide training.batch_size / training.micro_batch_size ({passes}); change "
                "one of the three"
            )
        return None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self
