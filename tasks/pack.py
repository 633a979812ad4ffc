"""pack: memory-mapped token shards."""

from homegrown.config.tokens import PackSettings, RowSettings
from homegrown.reporting.numbers import share, shown
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, artifact_of, stage, store
from tasks.ui.markdown import table
from tasks.ui.panels import Panel


def _report(artifact: Artifact) -> str:
    """Show the tokens of each split."""
    metrics = artifact.manifest.metrics
    total = int(metrics["tokens"])
    counts = {split: int(metrics[f"{split}_tokens"]) for split in ("train", "validation", "test")}
    rows = [[split, shown(count), share(count, total)] for split, count in counts.items()]
    parts = [f"### Tokens\n\n{table(['split', 'tokens', 'of all'], rows)}"]
    if artifact.manifest.settings["settings"].get("mixture"):
        parts += ["### Mixture", "Epochs of each source in one reading of the mixture.", _mixture(artifact)]
    return "\n\n".join(parts)


def _mixture(artifact: Artifact) -> str:
    """Return a table of the sources: their tokens, their epochs in each phase, and what they give."""
    from homegrown.data.index import read_index

    phases, metrics = read_index(store().fetch(artifact, "index.json").path).mixture or [], artifact.manifest.metrics
    header = ["source", "tokens", *(f"epochs in {phase.share:.0%}" for phase in phases), "tokens mixed", "of all"]
    tokens = {
        name: int(metrics[f"mixture_{name}_tokens"]) for name in sorted({key for one in phases for key in one.epochs})
    }
    mixed = {name: round(count * float(metrics[f"mixture_{name}_epochs"])) for name, count in tokens.items()}
    rows = [
        [
            name,
            shown(count),
            *(shown(phase.epochs.get(name, 0.0)) for phase in phases),
            shown(mixed[name]),
            share(mixed[name], sum(mixed.values())),
        ]
        for name, count in tokens.items()
    ]
    return table(header, rows)


@stage("pack", engine=["homegrown.data.packing"], panel=Panel(_report), in_shards=True)
def pack(work: Work, settings: PackSettings, rows: RowSettings, shard: Handle, tokenizer: Handle) -> Outcome:
    """Encode the shards into token files."""
    from homegrown.data import packing as engine

    store().fetch(artifact_of(tokenizer))
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
