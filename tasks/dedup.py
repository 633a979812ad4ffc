"""Dedup: shards without exact and near duplicates."""

from homegrown.outcome import Outcome
from homegrown.recipe import DedupSettings
from tasks.stage import Handle, Work, stage


@stage("dedup", engine=["homegrown.corpus.dedup"], seeded=True)
def dedup(work: Work, settings: DedupSettings, ingest: Handle) -> Outcome:
    """Drop exact and near duplicates, each with the document that it duplicates."""
    from homegrown.corpus import dedup as engine

    with work.executor() as executor:
        return engine.dedup(
            work.out,
            ingest.path,
            settings,
            seed=work.seed,
            memory_gb=work.compute.memory_gb,
            executor=executor,
            progress=work.progress,
        )
