"""Pretraining as a training job: the new model, its samples and its result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.config.compute import Parallel
from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.training.job import ALONE, Nodes, TrainingJob
from homegrown.training.run import run_job
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome, Progress, silent

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.model.transformer import Transformer
    from homegrown.training.checkpoints import Checkpoints
    from homegrown.training.next_token import Objective
    from homegrown.training.task import Prompt


class Job(TrainingJob):
    """The pretraining of a new model."""

    model: ModelSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "NewModel":
        """See `TrainingJob`."""
        return NewModel(self, train, tokenizer)


class NewModel:
    """A model that is trained from scratch; a `TrainingTask`."""

    def __init__(self, job: Job, train: "TokenSplit", tokenizer: "Tokenizer"):
        """Take the job's settings, for the text `train`.

        Raises:
            UserError: a prompt is longer than the context.
        """
        from homegrown.model.config import ModelConfig
        from homegrown.tokenizer.special import special_ids, text_prompt
        from homegrown.training.initialisation import BIGRAM_LR_SHARE, choose

        self._job, self._train, settings = job, train, job.training
        self.config = ModelConfig.from_settings(job.model, train.vocabulary_size, settings.dropout)
        self.initialisation = choose(settings, self.config, train.tokens)
        self.embedding_lr_share = BIGRAM_LR_SHARE if self.initialisation == "bigrams" else 1.0
        self.flops_per_token = self.config.flops_per_token()
        self.stop_ids = frozenset({special_ids(tokenizer).eos})
        encoded = [(prompt, text_prompt(tokenizer, prompt)) for prompt in settings.sample_prompts]
        self.prompts: Sequence[Prompt] = _prompts(encoded, self.config.context)

    def begin(self) -> "Transformer":
        """See `TrainingTask`."""
        import torch

        from homegrown.model.transformer import Transformer
        from homegrown.training.initialisation import initialize
        from homegrown.util.seeds import derive

        torch.manual_seed(derive(self._job.seed, "initialisation"))
        model = Transformer(self.config)
        initialize(model, self.initialisation, self._train)
        return model

    def objective(self, model: "Transformer") -> "Objective":
        """See `TrainingTask`."""
        from homegrown.training.next_token import NextToken

        return NextToken(model)

    def keep(self, checkpoints: "Checkpoints", step: int, out: Path) -> None:
        """See `TrainingTask`."""
        from homegrown.training.task import keep_model

        keep_model(checkpoints.model(step, self.config), self._job.tokenizer, out / "model")


def _prompts(prompts: Sequence[tuple[str, list[int]]], context: int) -> "list[Prompt]":
    from homegrown.training.task import Prompt

    encoded = [Prompt(text, tokens) for text, tokens in prompts]
    for prompt in encoded:
        if len(prompt.tokens) > context:
            raise UserError(
                f"The prompt {prompt.text[:40]!r} of training.sample_prompts has {len(prompt.tokens)} tokens, more "
                f"than model.context ({context}); shorten it."
            )
    return encoded


def choices(settings: TrainingSettings, model: ModelSettings, packed: Path, device: str) -> Mapping[str, str]:
    """Return what the settings with `auto` mean that depend on the number of steps, by their names."""
    from homegrown.model.config import ModelConfig
    from homegrown.training.compilation import choice
    from homegrown.training.initialisation import choose

    train = TokenSplit(packed, "train")
    config = ModelConfig.from_settings(model, train.vocabulary_size, settings.dropout)
    return {
        "initialisation": choose(settings, config, train.tokens),
        "compile": choice(settings, device, config.flops_per_token(), config.context),
    }


def pretrain(
    out: Path,
    packed: Path,
    tokenizer: Path,
    model: ModelSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    nodes: Nodes = ALONE,
    progress: Progress = silent,
) -> Outcome:
    """Train a model from the folders of packed tokens and of their tokenizer, with `processes` workers.

    Writes `model/` (config.json, model.safetensors, tokenizer.json), `metrics.parquet`, `samples.parquet`, `curve.png`,
    `tensorboard/`, `summary.json` and the last checkpoint. During training, curve, samples and event file are those so
    far, and `steps.jsonl` has a line for each step. Called again on the same `out`, it resumes from the newest
    checkpoint; on a CPU the weights are then the same, bit for bit, as without the interruption.

    Raises:
        UserError: a setting does not fit the data or the machine, or training diverges repeatedly.
        RuntimeError: a worker failed for another reason; the message names its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(packed, "train")
    job = Job(
        packed=packed.resolve(),
        tokenizer=tokenizer.resolve(),
        model=model,
        training=settings,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress, nodes=nodes)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)
