"""ingest: Parquet shards of documents from sources."""

import functools
import re
from collections import Counter
from dataclasses import replace

from homegrown.config.corpus import AnySource, IngestSettings, PackagesSource
from homegrown.corpus import packages
from homegrown.reporting import charts
from homegrown.reporting.blocks import table_as_markdown
from homegrown.reporting.numbers import share, shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.errors import SourceChanged
from homegrown.util.progress import Outcome
from tasks.stage import Work, stage, store
from tasks.ui.markdown import picture, quoted, table
from tasks.ui.panels import Panel, partly, rows_of

_REASONS = 12


def _content(settings: IngestSettings) -> dict[str, str]:
    from homegrown.corpus import sources

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return sources.content(settings, digests)


def _report(artifact: Artifact) -> str:
    """Show the documents of each source and the unreadable input with its reasons."""
    metrics, documents = artifact.manifest.metrics, artifact.manifest.rows_out
    counts = {name: metrics.get(f"{name}_documents", 0) for name in _sources(artifact)}
    rows = [[name, shown(count), share(float(count), documents)] for name, count in counts.items()]
    parts = ["### Sources", table(["source", "documents", "of all"], rows)]
    revisions = {name: metrics[f"{name}_revision"] for name in counts if f"{name}_revision" in metrics}
    parts += [f"`{name}` was read at commit `{revision}`." for name, revision in revisions.items()]
    if len(counts) > 1:
        values, notes = [float(count) for count in counts.values()], [row[1] for row in rows]
        parts.append(picture(charts.bars(list(counts), values, notes, "Documents"), "Documents by source"))
    return "\n\n".join([*parts, *_input(artifact), "### Unreadable input", _quarantine(artifact)])


def _input(artifact: Artifact) -> list[str]:
    """Return the table of what was read, skipped, quarantined and repaired."""
    from homegrown.corpus.account import inputs
    from homegrown.corpus.corpus_report import input_table

    found = inputs(artifact.path)
    if not found:
        return []
    return ["### Input", table_as_markdown(replace(input_table(found), title=""))]


def _sources(artifact: Artifact) -> list[str]:
    return [source["name"] for source in artifact.manifest.settings["settings"]["sources"]]


def _quarantine(artifact: Artifact) -> str:
    """Return the most frequent reasons, with numbers replaced by …, and one place of each."""
    if not artifact.manifest.metrics.get("quarantined"):
        return "All input was read."
    counts: Counter[str] = Counter()
    places: dict[str, str] = {}
    for row in rows_of(artifact.path / "quarantine"):
        reason = re.sub(r"\d+([.]\d+)?", "…", row["reason"])
        counts[reason] += 1
        places.setdefault(reason, f"{row['path']}:{row['position']}")
    lines = [f"{count:>9,}  {reason}\n{'':>11}{places[reason]}" for reason, count in counts.most_common(_REASONS)]
    return f"Count{partly(artifact.path / 'quarantine')}, reason and an example:\n\n{quoted(chr(10).join(lines))}"


@stage("ingest", engine=["homegrown.corpus.ingest"], raw=_content, panel=Panel(_report), in_shards=True)
def ingest(work: Work, settings: IngestSettings) -> Outcome:
    """Read the sources into Parquet shards; unreadable input goes to quarantine with its reason."""
    from homegrown.corpus import ingest as engine

    for source in settings.sources:
        if isinstance(source, PackagesSource) and source.constraints:
            if different := packages.deviations(source.constraints):
                work.note(f"Source {source.name}: {different}; a run with other packages reads other text.")
    with work.executor() as executor:
        check = functools.partial(_check_unchanged, dict(work.order.settings["raw"]))
        return engine.ingest(work.out, settings, executor=executor, progress=work.progress, check=check)


def _check_unchanged(raw: dict[str, str], source: AnySource) -> dict[str, str]:
    """Raise SourceChanged if the files of a source have another content than the artifact's key says.

    Return the SHA-256 of its local files by locator; of other sources nothing.
    """
    from homegrown.corpus import sources

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        found = sources.identity(source, digests)
    if sources.digest_of(found) != raw[source.name]:
        raise SourceChanged(
            f"Source {source.name}: its files changed since the run started; run again when they are complete."
        )
    return {locator: known for locator, known in found if isinstance(known, str)} if source.kind == "files" else {}
