"""vocabulary: a base with tokens of one's own, or of the chat template, added."""

from homegrown.config.finetune_recipe import VocabularySettings
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage


@stage("vocabulary", engine=["homegrown.finetuning.vocabulary"])
def vocabulary(work: Work, settings: VocabularySettings, base: Handle) -> Outcome:
    """Add tokens to the base, with rows of its embedding and output projection."""
    from homegrown.finetuning.vocabulary import extend

    return extend(work.out, base.path / "model", settings)
