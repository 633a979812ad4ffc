"""Ingest: from sources to Parquet shards of documents."""

from homegrown.digests import Digests
from homegrown.outcome import Outcome
from homegrown.recipe import IngestSettings
from tasks.stage import Work, stage, store


def _content(settings: IngestSettings) -> dict[str, str]:
    from homegrown.corpus import sources

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return sources.content(settings, digests)


@stage("ingest", engine=["homegrown.corpus.ingest"], raw=_content)
def ingest(work: Work, settings: IngestSettings) -> Outcome:
    """Read the sources into Parquet shards; what cannot be read goes to quarantine with its reason."""
    from homegrown.corpus import ingest as engine

    with work.executor() as executor:
        return engine.ingest(work.out, settings, executor=executor, progress=work.progress)
