"""dpo: an adapter or all weights, trained to prefer the chosen answers."""

from homegrown.config.finetune_recipe import DpoSettings, FinetuneSettings, FinetuneTraining
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.finetune import system_of
from tasks.locks import computing_on
from tasks.pretrain import TRAINING_PANEL, nodes_of
from tasks.stage import Handle, Work, stage


@stage("dpo", engine=["homegrown.finetuning.dpo", "homegrown.training.worker"], seeded=True, panel=TRAINING_PANEL)
def dpo(
    work: Work,
    settings: FinetuneSettings,
    training: FinetuneTraining,
    objective: DpoSettings,
    base: Handle,
    preferences: Handle,
) -> Outcome:
    """Train the base on the pairs; resumes from the last checkpoint."""
    from homegrown.finetuning import dpo as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, work.compute.processes):
        return engine.dpo(
            work.out,
            base.path / "model",
            preferences.path,
            settings,
            training,
            objective,
            system=system_of(preferences, base),
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            nodes=nodes_of(work.compute),
            progress=work.progress,
        )
