"""Base: a model that was trained elsewhere, read from its local folder."""

from pathlib import Path

from homegrown.digests import Digests
from homegrown.finetune_recipe import BaseSettings
from homegrown.outcome import Outcome
from tasks.stage import Work, stage, store


def _content(settings: BaseSettings) -> dict[str, str]:
    from homegrown.formats.huggingface_reader import files_of

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {file.name: digests.file(file) for file in files_of(Path(settings.folder))}


@stage("base", engine=["homegrown.formats.huggingface_reader"], raw=_content)
def base(work: Work, settings: BaseSettings) -> Outcome:
    """Read a Hugging Face model as one of ours."""
    from homegrown.formats.huggingface_reader import read_huggingface

    return read_huggingface(Path(settings.folder), work.out / "model")
