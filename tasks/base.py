"""base: a model in a local Hugging Face folder."""

from pathlib import Path

from homegrown.config.finetune_recipe import BaseSettings
from homegrown.store.digests import Digests
from homegrown.util.progress import Outcome
from tasks.stage import Work, stage, store


def _content(settings: BaseSettings) -> dict[str, str]:
    from homegrown.export.huggingface_reader import files_of

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {file.name: digests.file(file) for file in files_of(Path(settings.folder))}


@stage("base", engine=["homegrown.export.huggingface_reader"], raw=_content)
def base(work: Work, settings: BaseSettings) -> Outcome:
    """Import a Hugging Face model."""
    from homegrown.export.huggingface_reader import read_huggingface

    return read_huggingface(Path(settings.folder), work.out / "model")
