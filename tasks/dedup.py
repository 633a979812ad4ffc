"""dedup: shards without exact and near duplicates."""

from homegrown.config.corpus import DedupSettings
from homegrown.reporting import charts
from homegrown.reporting.numbers import share, shown
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage
from tasks.ui.markdown import picture, quoted, table
from tasks.ui.panels import Panel, partly, rows_of

_EXAMPLES = 10
_BINS = 20


def _report(artifact: Artifact) -> str:
    """Show the number of duplicates, their similarities and examples."""
    metrics, documents = artifact.manifest.metrics, artifact.manifest.rows_in
    kinds = [(kind, int(metrics[f"{kind}_duplicates"])) for kind in ("exact", "near")]
    if emptied := int(metrics.get("emptied", 0)):
        kinds.append(("of shared paragraphs alone", emptied))
    rows = [[kind, shown(count), share(count, documents)] for kind, count in kinds]
    parts = [
        "### Duplicates",
        table(["dropped", "documents", "of all"], rows),
        f"{shown(metrics['clusters'])} clusters; the largest has {shown(metrics['largest_cluster'])} documents.",
    ]
    if cut := int(metrics.get("cut_paragraphs", 0)):
        characters = shown(metrics["cut_characters"])
        parts.append(f"{shown(cut)} paragraphs that other documents share were cut: {characters} characters.")
    folder = artifact.path / "dropped"
    near = [row for row in rows_of(folder) if row["kind"] == "near"]
    if near:
        counts, low = _histogram([row["similarity"] for row in near])
        edges = [low + (1 - low) * place / _BINS for place in range(_BINS + 1)]
        title = f"Near duplicates by similarity to their duplicate{partly(folder)}"
        parts.append(picture(charts.histogram(edges, counts, title, "Jaccard similarity"), title))
        near.sort(key=lambda row: (row["similarity"], row["id"]))
        lines = []
        for row in near[:_EXAMPLES]:
            lines.append(f"{row['similarity']:.2f}  {row['path']}:{row['position']}")
            lines.append(f"      {row['id']} duplicates {row['duplicate_of']}")
        parts += ["The least similar dropped documents:", quoted("\n".join(lines))]
    return "\n\n".join(parts)


def _histogram(similarities: list[float]) -> tuple[list[int], float]:
    """Return the counts of `_BINS` equal bins up to 1, and the lower end of the first."""
    low = min(0.95, *similarities)
    counts = [0] * _BINS
    for similarity in similarities:
        counts[min(_BINS - 1, int((similarity - low) / (1 - low) * _BINS))] += 1
    return counts, low


@stage("dedup", engine=["homegrown.corpus.dedup"], seeded=True, panel=Panel(_report), in_shards=True)
def dedup(work: Work, settings: DedupSettings, ingest: Handle) -> Outcome:
    """Drop exact and near duplicates; list each with the document that it duplicates."""
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
