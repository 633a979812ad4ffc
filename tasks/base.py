"""base: a model from elsewhere."""

from homegrown.config.finetune_recipe import BaseSettings
from homegrown.util.progress import Outcome
from tasks.stage import Work, stage, store


def _content(settings: BaseSettings) -> dict[str, str]:
    from homegrown.export.bases import digests_of

    return digests_of(settings.base, store())


@stage("base", engine=["homegrown.export.bases"], raw=_content)
def base(work: Work, settings: BaseSettings) -> Outcome:
    """Import a base model: a Hugging Face folder, a GGUF file, or the starter."""
    from homegrown.export.bases import read_base

    return read_base(settings.base, work.out / "model")
