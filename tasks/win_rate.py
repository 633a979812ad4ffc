"""win-rate: the base and the model trained by DPO on held-out pairs."""

from homegrown.config.finetune_recipe import DpoSettings, PairSettings
from homegrown.store.manifest import Artifact
from homegrown.training.job import CURVE
from homegrown.util import devices
from homegrown.util.files import replacing
from homegrown.util.progress import Outcome
from tasks.answers import REPORT, answers_in_words, curve_of
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage
from tasks.ui.panels import Panel

_ANSWERS = {"author": "Chosen:", "rejected": "Rejected:", "before": "Before:", "after": "After:"}


def _report(artifact: Artifact) -> str:
    """Show the table, the training curve and answers side by side."""
    curve = curve_of(artifact, "dpo", "loss on training and held-out pairs")
    return "\n\n".join([_excerpt(artifact), *curve, answers_in_words(artifact, _ANSWERS)])


def _excerpt(artifact: Artifact) -> str:
    """Show the table; the run summary has the curve from the stage dpo."""
    from homegrown.finetuning.win_rate import before_and_after, read_results
    from homegrown.reporting.blocks import Section, as_markdown

    return as_markdown([Section("Before and after", [before_and_after(read_results(artifact.path))])], level=3)


def _rows(artifact: Artifact) -> list[dict[str, str]]:
    """Return the table for the UI, which sorts and searches it."""
    from homegrown.finetuning.win_rate import before_and_after, read_results
    from homegrown.reporting import blocks

    return blocks.rows_of(before_and_after(read_results(artifact.path)))


@stage("win-rate", engine=["homegrown.finetuning.win_rate"], panel=Panel(_report, _excerpt, rows=_rows))
def win_rate(
    work: Work,
    settings: PairSettings,
    objective: DpoSettings,
    base: Handle,
    model: Handle,
    dpo: Handle,
    preferences: Handle,
) -> Outcome:
    """Evaluate the base and the trained model on held-out pairs and write the report."""
    from homegrown.finetuning.answers import AFTER, BEFORE
    from homegrown.finetuning.win_rate import html, measure

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        outcome = measure(
            work.out,
            {BEFORE: base.path / "model", AFTER: model.path / "model"},
            preferences.path,
            settings,
            objective,
            device=device,
            progress=work.progress,
        )
    with replacing(work.out / REPORT) as temporary:
        temporary.write_text(html(work.out, dpo.path / CURVE), encoding="utf-8")
    return outcome
