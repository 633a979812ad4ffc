"""Continued pretraining: a base model trained on plain text, by an adapter that is merged at the end or by all weights.

Also the process of each worker: `python -m homegrown.finetuning.adaptation JOB`.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.config.adaptation import AdaptationSettings
from homegrown.config.compute import Parallel
from homegrown.config.finetune_recipe import FinetuneSettings
from homegrown.config.training import TrainingSettings
from homegrown.training.job import ALONE, Nodes, TrainingJob
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome, Progress, silent

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.model.transformer import Transformer
    from homegrown.training.checkpoints import Checkpoints
    from homegrown.training.next_token import Objective
    from homegrown.training.task import Prompt

ADAPTER, MODEL = "adapter", "model"


class AdaptationJob(TrainingJob):
    """A job of continued pretraining; `base`: folder of the base model, which has the tokenizer too."""

    base: Path
    adaptation: AdaptationSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "AdaptedModel":
        """See `TrainingJob`."""
        return AdaptedModel(self, tokenizer)


class AdaptedModel:
    """A base model trained on plain text; a `TrainingTask`."""

    def __init__(self, job: AdaptationJob, tokenizer: "Tokenizer"):
        """Check the base.

        Raises:
            UserError: it is damaged or its context is too short, or a prompt is too long.
        """
        from homegrown.finetuning.base_model import flops_per_token
        from homegrown.model import weights
        from homegrown.tokenizer.chat import load_chat
        from homegrown.tokenizer.special import special_ids

        self._job = job
        self._base = weights.load_config(job.base / "config.json")
        check_context(self._base.context, job.adaptation)
        self.config = dataclasses.replace(self._base, context=job.adaptation.context, dropout=job.training.dropout)
        self.embedding_lr_share = 1.0
        self.flops_per_token = flops_per_token(self.config, _adapter(job.adaptation))
        self.stop_ids = frozenset({special_ids(tokenizer).eos})
        self._added = () if job.adaptation.embeddings else load_chat(job.base, tokenizer).added_tokens
        self.prompts: Sequence[Prompt] = _prompts(tokenizer, job.training.sample_prompts, self.config.context)

    def begin(self) -> "Transformer":
        """See `TrainingTask`."""
        from homegrown.finetuning.base_model import load_base
        from homegrown.util.seeds import derive

        job = self._job
        return load_base(
            job.base,
            self.config,
            _adapter(job.adaptation),
            job.training,
            device=job.device,
            seed=derive(job.seed, "adapter"),
            tokens=self._added,
            embeddings=job.adaptation.embeddings,
        )

    def objective(self, model: "Transformer") -> "Objective":
        """See `TrainingTask`."""
        from homegrown.training.next_token import NextToken

        return NextToken(model)

    def keep(self, checkpoints: "Checkpoints", step: int, out: Path) -> None:
        """See `TrainingTask`: `model/`, and with an adapter also `adapter/` in peft's format."""
        import torch

        from homegrown.model import lora, weights
        from homegrown.model.transformer import Transformer
        from homegrown.training.task import keep_model

        settings = self._job.adaptation
        if settings.method == "full":
            model = checkpoints.fill(step, Transformer(self._base))
        else:
            lora.save(checkpoints.fill(step, self.begin()), _adapter(settings), out / ADAPTER)
            model = lora.merge(weights.load(self._job.base, dtype=torch.float32), out / ADAPTER)
        keep_model(model, self._job.tokenizer, out / MODEL)


def choices(settings: TrainingSettings, adaptation: AdaptationSettings, base: Path, device: str) -> Mapping[str, str]:
    """Return what the settings with `auto` mean that depend on the number of steps, by their names."""
    from homegrown.finetuning.base_model import flops_per_token
    from homegrown.model import weights
    from homegrown.training.compilation import choice

    config = dataclasses.replace(weights.load_config(base / "config.json"), context=adaptation.context)
    flops = flops_per_token(config, _adapter(adaptation))
    return {"compile": choice(settings, device, flops, config.context)}


def adapt(
    out: Path,
    base: Path,
    packed: Path,
    settings: AdaptationSettings,
    training: TrainingSettings,
    *,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    nodes: Nodes = ALONE,
    progress: Progress = silent,
) -> Outcome:
    """Continue the pretraining of the model in the folder `base` on the tokens that `pack` made with its tokenizer.

    Writes `model/`, the base with what it learned, with an adapter also `adapter/` in peft's format, and beside them
    metrics, samples, curve, event files, summary and the last checkpoint, as pretraining does. A checkpoint has the
    trained weights only. A second call with the same `out` resumes from the newest checkpoint.

    Raises:
        UserError: a library is missing, a setting does not fit the base or the machine, or training diverges.
        RuntimeError: a worker failed for another reason; the message names its log file.
    """
    from homegrown.data.loader import TokenSplit
    from homegrown.model import weights
    from homegrown.training.run import run_job

    config = weights.load_config(base / "config.json")
    check_context(config.context, settings)
    if settings.method != "full":
        from homegrown.finetuning.tuning import check

        check(config, _adapter(settings))
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(packed, "train")
    job = AdaptationJob(
        packed=packed.resolve(),
        tokenizer=base.resolve(),
        base=base.resolve(),
        training=training,
        adaptation=settings,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress, "homegrown.finetuning.adaptation", nodes=nodes)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)


def check_context(context: int, settings: AdaptationSettings) -> None:
    """Raise UserError if the training sequences are longer than the `context` of the base."""
    if problem := settings.misfit(context):
        raise UserError(f"{problem}.")


def _adapter(settings: AdaptationSettings) -> FinetuneSettings:
    return FinetuneSettings(
        method=settings.method,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.targets,
    )


def _prompts(tokenizer: "Tokenizer", prompts: Sequence[str], context: int) -> "list[Prompt]":
    from homegrown.tokenizer.special import text_prompt
    from homegrown.training.task import Prompt

    encoded = [Prompt(prompt, text_prompt(tokenizer, prompt)) for prompt in prompts]
    for prompt in encoded:
        if len(prompt.tokens) > context:
            raise UserError(
                f"training.sample_prompts: {prompt.text[:40]!r} has {len(prompt.tokens)} tokens, more than "
                f"adaptation.context ({context}); shorten it."
            )
    return encoded


if __name__ == "__main__":
    from homegrown.training.stopping import end_process
    from homegrown.training.worker import main

    main(Path(sys.argv[1]), AdaptationJob)
    end_process()
