"""pack: memory-mapped token shards."""

from homegrown.config.recipe import PackSettings, RowSettings
from homegrown.reporting.numbers import share, shown
from homegrown.store.artifacts import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage
from tasks.ui.markdown import table
from tasks.ui.panels import Panel


def _report(artifact: Artifact) -> str:
    """Show the tokens of each split."""
    metrics = artifact.manifest.metrics
    total = int(metrics["tokens"])
    counts = {split: int(metrics[f"{split}_tokens"]) for split in ("train", "validation", "test")}
    rows = [[split, shown(count), share(count, total)] for split, count in counts.items()]
    return f"### Tokens\n\n{table(['split', 'tokens', 'of all'], rows)}"


@stage("pack", engine=["homegrown.data.packing"], panel=Panel(_report))
def pack(work: Work, settings: PackSettings, rows: RowSettings, shard: Handle, tokenizer: Handle) -> Outcome:
    """Encode the shards into token files."""
    from homegrown.data import packing as engine

    with work.executor() as executor:
        return engine.pack(
            work.out,
            shard.path,
            tokenizer.path,
            settings,
            context=rows.context,
            executor=executor,
            progress=work.progress,
        )
