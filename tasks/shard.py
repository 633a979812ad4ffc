"""Shard: shuffled train, validation and test shards."""

from homegrown.digests import Digests
from homegrown.outcome import Outcome
from homegrown.recipe import ShardSettings
from tasks.stage import Handle, Work, stage, store


def _content(settings: ShardSettings) -> dict[str, str]:
    if not settings.decontaminate:
        return {}
    from homegrown.corpus import contamination

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {str(path): digests.file(path) for path in contamination.check_files(settings.decontaminate)}


@stage("shard", engine=["homegrown.corpus.shard"], seeded=True, raw=_content)
def shard(work: Work, settings: ShardSettings, filter: Handle) -> Outcome:
    """Shuffle the documents and split them into train, validation and test, nothing of which is like training text."""
    from homegrown.corpus import shard as engine

    return engine.shard(
        work.out, filter.path, settings, seed=work.seed, memory_gb=work.compute.memory_gb, progress=work.progress
    )
