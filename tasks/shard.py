"""Shard: shuffled train, validation and test shards."""

from homegrown.outcome import Outcome
from homegrown.recipe import ShardSettings
from tasks.stage import Handle, Work, stage


@stage("shard", engine=["homegrown.corpus.shard"], seeded=True)
def shard(work: Work, settings: ShardSettings, filter: Handle) -> Outcome:
    """Shuffle the documents and split them into train, validation and test."""
    from homegrown.corpus import shard as engine

    return engine.shard(
        work.out, filter.path, settings, seed=work.seed, memory_gb=work.compute.memory_gb, progress=work.progress
    )
