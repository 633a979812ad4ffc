"""Filter: shards of the documents that pass every rule."""

from homegrown.outcome import Outcome
from homegrown.recipe import FilterSettings
from tasks.panels import Panel, parquet_rows
from tasks.stage import Handle, Work, stage


@stage("filter", engine=["homegrown.corpus.filter"], panel=Panel(table=parquet_rows("rules")))
def filter_documents(work: Work, settings: FilterSettings, dedup: Handle) -> Outcome:
    """Drop documents that fail a rule, each with the rule and the measured value."""
    from homegrown.corpus import filter as engine

    with work.executor() as executor:
        return engine.filter_documents(work.out, dedup.path, settings, executor=executor, progress=work.progress)
