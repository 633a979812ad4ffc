"""Direct preference optimization (Rafailov et al. 2023): a base model trained on pairs of answers.

Also the process of each worker: `python -m homegrown.finetuning.dpo JOB`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from homegrown.config.compute import Parallel
from homegrown.config.finetune_recipe import DpoSettings, FinetuneSettings, FinetuneTraining
from homegrown.finetuning.job import MODEL, FinetuneJob, TunedModel
from homegrown.training.job import ALONE, Nodes
from homegrown.util.progress import Outcome, Progress, silent

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.finetuning.questions import Question
    from homegrown.model.transformer import Transformer
    from homegrown.training.next_token import Objective


class DpoJob(FinetuneJob):
    """A job of DPO; `packed`: folder of the packed pairs, with the reference's log-probability of each answer."""

    loss_unit: ClassVar[str] = "nats per pair"
    dpo: DpoSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "PreferringModel":
        """See `TrainingJob`."""
        return PreferringModel(self, train, tokenizer)


class PreferringModel(TunedModel):
    """A base model trained to prefer the chosen answers; a `TrainingTask`."""

    sequences_in_a_row = 2

    def __init__(self, job: DpoJob, train: "TokenSplit", tokenizer: "Tokenizer"):
        """Check the base; raises UserError as `TunedModel` does."""
        super().__init__(job, train, tokenizer)
        self._settings = job.dpo

    def objective(self, model: "Transformer") -> "Objective":
        """See `TrainingTask`."""
        from homegrown.finetuning.pairs import PreferencePairs

        return PreferencePairs(model, self._settings.beta, self._settings.supervised)

    def questions(self, most: int) -> "list[Question]":
        """See `TunedModel`: the held-out prompts."""
        from homegrown.finetuning.questions import held_out_pairs

        return [question for question, _ in held_out_pairs(self._job.packed, most)]


def dpo(
    out: Path,
    base: Path,
    preferences: Path,
    settings: FinetuneSettings,
    training: FinetuneTraining,
    objective: DpoSettings,
    *,
    system: str | None,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    nodes: Nodes = ALONE,
    progress: Progress = silent,
) -> Outcome:
    """Train the model in the folder `base` on the pairs packed by `homegrown.finetuning.reference`.

    Writes what fine-tuning on conversations writes, and resumes as it does. The loss of a step is a mean over pairs.

    Raises:
        UserError: a library is missing, a setting does not fit the base or the machine, or training diverges.
        RuntimeError: a worker failed for another reason; the message names its log file.
    """
    from homegrown.data.loader import TokenSplit
    from homegrown.finetuning.tuning import check
    from homegrown.model import weights
    from homegrown.tokenizer.chat_files import save_system
    from homegrown.training.run import run_job

    check(weights.load_config(base / "config.json"), settings)
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(preferences, "train")
    job = DpoJob(
        packed=preferences.resolve(),
        tokenizer=base.resolve(),
        base=base.resolve(),
        training=training.resolved(train.windows(train.context or 0)),
        finetuning=settings,
        dpo=objective,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress, "homegrown.finetuning.dpo", nodes=nodes)
    if settings.method == "full":
        save_system(out / MODEL, system)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)


if __name__ == "__main__":
    from homegrown.training.stopping import end_process
    from homegrown.training.worker import main

    main(Path(sys.argv[1]), DpoJob)
    end_process()
