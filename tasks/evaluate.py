"""Evaluate: one table over every variant of the weights."""

from homegrown import devices
from homegrown.artifacts import Artifact
from homegrown.outcome import Outcome
from homegrown.recipe import EvaluationSettings
from tasks import pictures
from tasks.locks import computing_on
from tasks.markdown import picture, quoted, table
from tasks.panels import Panel, rows_of
from tasks.stage import Handle, Work, stage

_COLUMNS = {
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "bleu": ("BLEU", "{:.2f}"),
    "rouge_l": ("ROUGE-L", "{:.1f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "disk_megabytes": ("disk MB", "{:.3g}"),
}
_MORE_COLUMNS = {
    "rouge_1": ("ROUGE-1", "{:.1f}"),
    "rouge_2": ("ROUGE-2", "{:.1f}"),
    "repeated_4grams": ("repeated 4-grams", "{:.1%}"),
    "distinct_2": ("distinct 2-grams", "{:.1%}"),
    "memory_megabytes": ("memory MB", "{:.3g}"),
    "device": ("device", "{}"),
}


def _report(artifact: Artifact) -> str:
    """Show every figure of every variant, how it was measured, and a text of the model's own."""
    method = [line for line in _lines(artifact, "report.md") if line.startswith("- ")]
    more = _table(artifact, _MORE_COLUMNS)
    return "\n\n".join([_excerpt(artifact), "### Further figures", more, "### How it was measured", "\n".join(method)])


def _excerpt(artifact: Artifact) -> str:
    from homegrown.evaluation.chart import draw

    results = list(rows_of(artifact.path / "results"))
    names, bits, sizes = ([row[name] for row in results] for name in ("variant", "bits_per_byte", "disk_megabytes"))
    return "\n\n".join(
        [
            "### Evaluation",
            _table(artifact, _COLUMNS),
            picture(pictures.smaller(draw(names, bits, sizes)), "bits per byte and size of each variant"),
            "The model writes:",
            quoted("\n".join(_lines(artifact, "sample.txt"))),
        ]
    )


def _table(artifact: Artifact, columns: dict[str, tuple[str, str]]) -> str:
    """Return some columns of the results; all of them would run out of the page."""
    header = ["variant", *(title for title, _ in columns.values())]
    rows = [
        [row["variant"], *(form.format(row[name]) for name, (_, form) in columns.items())]
        for row in rows_of(artifact.path / "results")
    ]
    return table(header, rows)


def _lines(artifact: Artifact, name: str) -> list[str]:
    return artifact.path.joinpath(name).read_text(encoding="utf-8").splitlines()


@stage(
    "evaluate",
    engine=["homegrown.evaluation.evaluate"],
    seeded=True,
    panel=Panel(_report, _excerpt),
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
