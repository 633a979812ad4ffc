"""merge: an adapter added to the weights of its base."""

from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.finetune import system_of
from tasks.stage import Handle, Work, stage
from tasks.ui.markdown import quoted
from tasks.ui.panels import Panel


def _report(artifact: Artifact) -> str:
    """Show commands for the merged model."""
    commands = (
        f"homegrown chat {artifact.name}",
        f"homegrown serve {artifact.name}",
        f"homegrown export {artifact.name} --to gguf",
    )
    text = "The adapter added to the weights of its base, as a complete model."
    return "\n\n".join([text, quoted("\n".join(commands))])


@stage("merge", engine=["homegrown.finetuning.merge"], panel=Panel(_report))
def merge(work: Work, base: Handle, instructions: Handle, finetune: Handle) -> Outcome:
    """Write the complete model."""
    from homegrown.finetuning import merge as engine

    return engine.merge(work.out, base.path / "model", finetune.path, system_of(instructions, base))
