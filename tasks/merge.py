"""Merge: an adapter added to the weights of its base."""

from homegrown.outcome import Outcome
from tasks.finetune import system_of
from tasks.stage import Handle, Work, stage


@stage("merge", engine=["homegrown.finetuning.merge"])
def merge(work: Work, base: Handle, instructions: Handle, finetune: Handle) -> Outcome:
    """Write the whole model that everything which reads models takes."""
    from homegrown.finetuning import merge as engine

    return engine.merge(work.out, base.path / "model", finetune.path, system_of(instructions))
