"""finetune: an adapter or all weights, trained on answers."""

from homegrown.config.finetune_recipe import FinetuneSettings, FinetuneTraining
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.pretrain import TRAINING_PANEL, nodes_of
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
            system=system_of(instructions, base),
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            nodes=nodes_of(work.compute),
            progress=work.progress,
        )


def system_of(data: Handle, base: Handle) -> str | None:
    """Return the default system message of a model trained on packed conversations, or on pairs.

    Without one in their settings, conversations have none, and pairs that of the base.
    """
    system: str | None = artifact_of(data).manifest.settings["settings"]["system"]
    if system is None and data.stage == "preferences":
        from homegrown.tokenizer.chat_files import load_files

        return load_files(base.path / "model").system
    return system
