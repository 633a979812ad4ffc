"""answers: the base and the fine-tuned model on held-out questions."""

from collections.abc import Mapping

from homegrown.config.finetune_recipe import AnswerSettings
from homegrown.reporting import charts
from homegrown.store.manifest import Artifact
from homegrown.training.job import CURVE
from homegrown.util import devices
from homegrown.util.files import replacing
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import picture, quoted
from tasks.ui.panels import Panel, rows_of

REPORT = "report.html"
_ANSWERS = {"author": "Reference:", "before": "Before:", "after": "After:"}


def _report(artifact: Artifact) -> str:
    """Show the table, the training curve and answers side by side."""
    curve = curve_of(artifact, "finetune", "loss on training and held-out answers")
    return "\n\n".join([_excerpt(artifact), *curve, answers_in_words(artifact, _ANSWERS)])


def curve_of(artifact: Artifact, stage: str, title: str) -> list[str]:
    """Return the training curve of the artifact's input of this stage; nothing if it is gone."""
    trained = next((one for one in store().inputs(artifact) if one.manifest.stage == stage), None)
    if trained is None or not (trained.path / CURVE).is_file():
        return []
    return [picture(charts.smaller((trained.path / CURVE).read_bytes()), title)]


def _excerpt(artifact: Artifact) -> str:
    """Show the table; the run summary has the curve from the stage finetune."""
    from homegrown.finetuning.answers_report import before_and_after, read_results
    from homegrown.reporting.blocks import Section, as_markdown

    return as_markdown([Section("Before and after", [before_and_after(read_results(artifact.path))])], level=3)


def answers_in_words(artifact: Artifact, titles: Mapping[str, str]) -> str:
    """Return the first answers of the table `samples`; `titles` are those of its columns."""
    parts = ["### Answers to held-out questions"]
    for number, row in zip(range(1, 5), rows_of(artifact.path / "samples"), strict=False):
        parts += [f"#### Question {number}", quoted(row["question"])]
        for column, title in titles.items():
            parts += [title, quoted(row[column])]
    return "\n\n".join(parts)


def _rows(artifact: Artifact) -> list[dict[str, str]]:
    """Return the table for the UI, which sorts and searches it."""
    from homegrown.finetuning.answers_report import before_and_after, read_results
    from homegrown.reporting import blocks

    return blocks.rows_of(before_and_after(read_results(artifact.path)))


@stage(
    "answers",
    engine=["homegrown.finetuning.answers", "homegrown.finetuning.answers_report"],
    panel=Panel(_report, _excerpt, rows=_rows),
)
def answers(
    work: Work, settings: AnswerSettings, base: Handle, model: Handle, finetune: Handle, instructions: Handle
) -> Outcome:
    """Evaluate the base and the fine-tuned model on held-out questions and write the report."""
    from homegrown.finetuning.answers import AFTER, BEFORE, measure
    from homegrown.finetuning.answers_report import html

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        outcome = measure(
            work.out,
            {BEFORE: base.path / "model", AFTER: model.path / "model"},
            instructions.path,
            settings,
            device=device,
            progress=work.progress,
        )
    with replacing(work.out / REPORT) as temporary:
        temporary.write_text(html(work.out, finetune.path / CURVE), encoding="utf-8")
    return outcome
