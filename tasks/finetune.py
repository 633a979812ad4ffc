"""finetune: an adapter or all weights, trained on answers."""

from homegrown.config.finetune_recipe import FinetuneSettings, FinetuneTraining
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.pretrain import TRAINING_PANEL
from tasks.stage import Handle, Work, artifact_of, stage


@stage(
    "finetune",
    engine=["homegrown.finetuning.tuning", "homegrown.finetuning.worker"],
    seeded=True,
    panel=TRAINING_PANEL,
)
def finetune(
    work: Work, settings: FinetuneSettings, training: FinetuneTraining, base: Handle, instructions: Handle
) -> Outcome:
    """Train the base on the answers of the conversations; resumes from the last checkpoint."""
    from homegrown.finetuning import tuning as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, work.compute.processes):
        return engine.finetune(
            work.out,
            base.path / "model",
            instructions.path,
            settings,
            training,
            system=system_of(instructions),
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            progress=work.progress,
        )


def system_of(instructions: Handle) -> str | None:
    """Return the system message of the packed conversations."""
    system: str | None = artifact_of(instructions).manifest.settings["settings"]["system"]
    return system
