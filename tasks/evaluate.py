"""evaluate: one table of every variant of the weights and of the baselines."""

from typing import Any

from homegrown.config.evaluation import EvaluationSettings
from homegrown.config.tokens import RowSettings
from homegrown.reporting import charts
from homegrown.store.manifest import Artifact
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import picture, quoted, table
from tasks.ui.panels import Panel

_WIDTH = 92  # characters of a table row that fit the UI's page
_COLUMNS = {
    "bits_per_byte": "{:.4f}",
    "perplexity": "{:.2f}",
    "bleu": "{:.2f}",
    "rouge_l": "{:.1f}",
    "tokens_per_second": "{:,.0f}",
    "disk_megabytes": "{:.3g}",
}
_TITLES = ["model", "bits per byte", "perplexity", "BLEU", "ROUGE-L", "tokens/s", "disk MB"]


def _report(artifact: Artifact) -> str:
    """Show all figures of all models, those of the previous version, and the method."""
    from homegrown.evaluation.evaluation_report import sections
    from homegrown.evaluation.previous import beside_previous
    from homegrown.reporting.blocks import Picture, as_markdown

    def drawn(one: Picture) -> str:
        return picture(charts.smaller(one.png), one.title)

    return as_markdown(sections(*beside_previous(store(), artifact)), picture=drawn, width=_WIDTH, level=3)


def _excerpt(artifact: Artifact) -> str:
    from homegrown.evaluation.evaluation_report import gains, models_picture
    from homegrown.evaluation.previous import beside_previous

    report, news = beside_previous(store(), artifact)
    predicting = [row for row in report.results if row.bits_per_byte is not None]
    rows = [[row.variant, *(_cell(getattr(row, name), form) for name, form in _COLUMNS.items())] for row in predicting]
    drawn = models_picture(report.results)
    return "\n\n".join(
        [
            "### Evaluation",
            table(_TITLES, rows),
            *gains(report),
            *news,
            picture(charts.smaller(drawn.png), drawn.title),
            "The model writes:",
            quoted(report.sample),
        ]
    )


def _cell(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def _rows(artifact: Artifact) -> list[dict[str, str]]:
    """Return the table of all models for the UI, which sorts and searches it."""
    from homegrown.evaluation.evaluation_report import models_table
    from homegrown.evaluation.previous import beside_previous
    from homegrown.reporting.blocks import rows_of

    report, _ = beside_previous(store(), artifact)
    return rows_of(models_table(report))


@stage(
    "evaluate",
    engine=["homegrown.evaluation.evaluate"],
    seeded=True,
    panel=Panel(_report, _excerpt, rows=_rows),
)
def evaluate(
    work: Work,
    settings: EvaluationSettings,
    pretrain: Handle,
    quantize: Handle,
    pack: Handle,
    shard: Handle,
    tokenizer: Handle,
    base: Handle | None = None,
    rows: RowSettings | None = None,
) -> Outcome:
    """Evaluate every variant and the baselines on held-out text."""
    from homegrown.evaluation import evaluate as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        return engine.evaluate(
            work.out,
            pretrain.path,
            quantize.path,
            pack.path,
            shard.path,
            tokenizer.path,
            settings,
            base=base.path if base else None,
            context=rows.context if rows else None,
            seed=work.seed,
            device=device,
            progress=work.progress,
        )
