"""Evaluate: one table over every variant of the weights."""

from pathlib import Path

from homegrown import devices
from homegrown.outcome import Outcome
from homegrown.recipe import EvaluationSettings
from tasks.locks import computing_on
from tasks.panels import Panel, parquet_rows
from tasks.stage import Handle, Work, stage


def _report(folder: Path) -> str:
    return folder.joinpath("report.md").read_text(encoding="utf-8")


@stage(
    "evaluate",
    engine=["homegrown.evaluation.evaluate"],
    seeded=True,
    panel=Panel(markdown=_report, table=parquet_rows("results")),
)
def evaluate(
    work: Work, settings: EvaluationSettings, pretrain: Handle, quantize: Handle, pack: Handle, tokenizer: Handle
) -> Outcome:
    """Measure every variant on held-out text."""
    from homegrown.evaluation import evaluate as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        return engine.evaluate(
            work.out,
            pretrain.path,
            quantize.path,
            pack.path,
            tokenizer.path,
            settings,
            seed=work.seed,
            device=device,
            progress=work.progress,
        )
