"""lm-eval: a model on the tasks of lm-evaluation-harness."""

from pathlib import Path
from typing import Any

from homegrown.config.evaluation import HarnessSettings
from homegrown.reporting.numbers import shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util import devices
from homegrown.util.files import read_parquet
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import table
from tasks.ui.panels import Panel

_COLUMNS = ("task", "metric", "value", "± standard error", "documents")


def _content(settings: HarnessSettings) -> dict[str, str]:
    """Return the digest of every file in the folder of tasks."""
    if settings.include is None:
        return {}
    folder = Path(settings.include)
    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): digests.file(file) for file in files}


def rows(artifact: Artifact) -> list[dict[str, str]]:
    """Return the figures of every task, by column."""
    return [
        dict(zip(_COLUMNS, (row["task"], row["metric"], figure, error, str(row["documents"])), strict=True))
        for row in read_parquet(artifact.path / "results").to_pylist()
        for figure, error in [(_figure(row["value"]), _error(row))]
    ]


def _error(row: dict[str, Any]) -> str:
    factor = row.get("standard_factor")
    return f"×/÷ {factor:.3g}" if factor is not None else _figure(row["standard_error"])


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else shown(value)


def _report(artifact: Artifact) -> str:
    """Show the figures, and how they were measured."""
    settings = artifact.manifest.settings["settings"]
    limit = settings["max_documents"]
    documents = "all documents" if limit is None else f"at most {shown(limit)} documents"
    method = f"{shown(settings['few_shot'])} examples before each question; {documents} of each task."
    return f"{_excerpt(artifact)}\n\n{method}"


def _excerpt(artifact: Artifact) -> str:
    cells = [list(row.values()) for row in rows(artifact)]
    return f"### Tasks of lm-evaluation-harness\n\n{table(_COLUMNS, cells, left=2)}"


@stage("lm-eval", engine=["homegrown.harness.measure"], raw=_content, panel=Panel(_report, _excerpt, rows=rows))
def lm_eval(work: Work, settings: HarnessSettings, pretrain: Handle, shard: Handle | None = None) -> Outcome:
    """Measure a model on tasks of lm-evaluation-harness; two of them are made of held-out text."""
    from homegrown.harness.measure import measure

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        return measure(
            work.out,
            pretrain.path,
            shard.path if shard else None,
            settings,
            device=device,
            progress=work.progress,
        )
