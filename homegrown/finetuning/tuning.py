"""The stage `finetune`: a base model and conversations in, an adapter or a full model out."""

from pathlib import Path

from homegrown.config.compute import Parallel
from homegrown.config.finetune_recipe import FinetuneSettings, FinetuneTraining
from homegrown.data.loader import TokenSplit
from homegrown.finetuning.job import MODEL, FinetuneJob
from homegrown.model import lora, weights
from homegrown.model.config import ModelConfig
from homegrown.quantization.requirements import check_installed, misfit
from homegrown.tokenizer.chat_files import save_system
from homegrown.training.job import ALONE, Nodes
from homegrown.training.run import run_job
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome, Progress, silent

_WORKER = "homegrown.finetuning.worker"


def finetune(
    out: Path,
    base: Path,
    instructions: Path,
    settings: FinetuneSettings,
    training: FinetuneTraining,
    *,
    system: str | None,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    nodes: Nodes = ALONE,
    progress: Progress = silent,
) -> Outcome:
    """Train the model in the folder `base` on the answers packed by the stage `instructions`.

    Writes `adapter/` in peft's format, or `model/` with the method `full`; `system` is its default system message.
    Also writes metrics, samples, curve, event files, summary and checkpoints, as pretraining does. A checkpoint has the
    trained weights only. A second call with the same `out` resumes from the newest checkpoint.

    Raises:
        UserError: a library is missing, a setting does not fit the base or the machine, or training diverges.
        RuntimeError: a worker failed for another reason; the message names its log file.
    """
    check(weights.load_config(base / "config.json"), settings)
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(instructions, "train")
    job = FinetuneJob(
        packed=instructions.resolve(),
        tokenizer=base.resolve(),
        base=base.resolve(),
        training=training.resolved(train.windows(train.context or 0)),
        finetuning=settings,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress, _WORKER, nodes=nodes)
    if settings.method == "full":
        save_system(out / MODEL, system)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)


def check(config: ModelConfig, settings: FinetuneSettings) -> None:
    """Check that the libraries are installed and the settings fit a base of this shape.

    Raises:
        UserError: a library is missing, or a setting does not fit.
    """
    if settings.method == "full":
        return
    lora.check_targets(config, settings)
    if settings.method == "qlora":
        check_installed("nf4", "choose finetuning.method lora")
        if problem := misfit("nf4", config):
            raise UserError(f"{problem}; choose finetuning.method lora.")
