"""Filter: shards of the documents that pass every rule."""

from pathlib import Path

from homegrown.digests import Digests
from homegrown.outcome import Outcome
from homegrown.recipe import FilterSettings
from tasks.panels import Panel, parquet_rows
from tasks.stage import Handle, Work, stage, store


def _content(settings: FilterSettings) -> dict[str, str]:
    """Return the digest of the word list; a missing one is the engine's to report."""
    if settings.word_list is None or not Path(settings.word_list.path).is_file():
        return {}
    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {"word_list": digests.file(Path(settings.word_list.path))}


@stage("filter", engine=["homegrown.corpus.filter"], raw=_content, panel=Panel(table=parquet_rows("rules")))
def filter_documents(work: Work, settings: FilterSettings, dedup: Handle) -> Outcome:
    """Drop documents that fail a rule, each with the rule and the measured value."""
    from homegrown.corpus import filter as engine

    with work.executor() as executor:
        return engine.filter_documents(work.out, dedup.path, settings, executor=executor, progress=work.progress)
