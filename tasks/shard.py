"""shard: shuffled train, validation and test shards."""

from homegrown.config.corpus import ShardSettings
from homegrown.reporting import charts
from homegrown.reporting.numbers import file_size, share, shown
from homegrown.store.artifacts import Store
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import picture, table
from tasks.ui.panels import Panel, unsegmented

_FUNNEL = {
    "ingest": "read",
    "dedup": "deduplicated",
    "filter": "filtered",
    "shard": "in shards",
}


def _content(settings: ShardSettings) -> dict[str, str]:
    if not settings.decontaminate:
        return {}
    from homegrown.corpus import contamination, segmenter

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        files = {str(path): digests.file(path) for path in contamination.check_files(settings.decontaminate)}
    return segmenter.key() | files


def _report(artifact: Artifact) -> str:
    """Show the documents from ingest to here, and the splits."""
    metrics = artifact.manifest.metrics
    dropped = {
        "similar to a validation document": metrics["dropped_near_validation"],
        "similar to a test document": metrics["dropped_near_test"],
        "contaminated by evaluation texts": metrics["dropped_contaminated"],
    }
    return "\n\n".join(
        [
            _excerpt(artifact),
            "### Training documents dropped here",
            table(["reason", "documents"], [[reason, shown(count)] for reason, count in dropped.items()]),
            *unsegmented(metrics),
        ]
    )


def _excerpt(artifact: Artifact) -> str:
    every = {one.manifest.stage: one for one in Store(artifact.path.parents[1]).lineage(artifact)}
    every[artifact.manifest.stage] = artifact
    chain = [every[stage] for stage in _FUNNEL if stage in every]
    counts = [one.manifest.rows_out for one in chain]
    notes = []
    for number, count in enumerate(counts):
        lost = counts[number - 1] - count if number else 0
        notes.append(f"{count:,}" + (f"  (−{lost:,}, {share(lost, counts[number - 1])})" if lost else ""))
    title = "Documents after each stage"
    names = [_FUNNEL[one.manifest.stage] for one in chain]
    metrics = artifact.manifest.metrics
    rows = [
        [split, shown(metrics[f"{split}_documents"]), file_size(int(metrics[f"{split}_bytes"]))]
        for split in ("train", "validation", "test")
    ]
    return "\n\n".join(
        [
            "### Documents",
            picture(charts.bars(names, counts, notes, title), title),
            table(["split", "documents", "text"], rows),
        ]
    )


@stage(
    "shard",
    engine=["homegrown.corpus.shard"],
    seeded=True,
    raw=_content,
    panel=Panel(_report, _excerpt),
    in_shards=True,
)
def shard(work: Work, settings: ShardSettings, filter: Handle) -> Outcome:
    """Shuffle and split the documents; no validation or test document has a near duplicate in train."""
    from homegrown.corpus import shard as engine

    with work.executor() as executor:
        return engine.shard(work.out, filter.path, settings, seed=work.seed, executor=executor, progress=work.progress)
