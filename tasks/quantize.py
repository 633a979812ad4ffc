"""Quantize: smaller variants of the weights."""

from homegrown.artifacts import Artifact
from homegrown.outcome import Outcome
from homegrown.recipe import QuantizationSettings
from tasks import pictures
from tasks.figures import shown
from tasks.markdown import picture, table
from tasks.panels import Panel, rows_of
from tasks.stage import Handle, Work, stage


def _report(artifact: Artifact) -> str:
    """Show the size of each variant beside the original's, and how far its logits are from that one's."""
    variants = list(rows_of(artifact.path / "variants"))
    original = variants[0]["megabytes"] * variants[0]["ratio"] if variants else 0.0
    names = ["original", *(one["variant"] for one in variants)]
    sizes = [original, *(one["megabytes"] for one in variants)]
    title = "Size on disk, MB"
    drawn = pictures.bars(names, sizes, [f"{size:.3g}" for size in sizes], title, colour=pictures.GREEN)
    return f"{_excerpt(artifact)}\n\n{picture(drawn, title)}"


def _excerpt(artifact: Artifact) -> str:
    rows = [
        [
            one["variant"],
            f"{one['megabytes']:.3g}",
            f"{one['ratio']:.2f} times",
            f"{one['relative_logit_error']:.2%}",
            shown(one["max_logit_error"]),
        ]
        for one in rows_of(artifact.path / "variants")
    ]
    header = ["variant", "MB", "smaller", "error of the logits", "largest error"]
    return f"### Smaller variants\n\n{table(header, rows)}"


@stage("quantize", engine=["homegrown.formats.quantize"], panel=Panel(_report, _excerpt))
def quantize(work: Work, settings: QuantizationSettings, pretrain: Handle) -> Outcome:
    """Make each variant of the weights, and check that it loads again."""
    from homegrown.formats import quantize as engine

    return engine.quantize(work.out, pretrain.path, settings, progress=work.progress)
