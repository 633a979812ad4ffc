"""The page of a fine-tuning: before and after in one table, the curve, and answers side by side."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from homegrown.finetuning.answers import Result
from homegrown.reporting.blocks import (
    Block,
    Cell,
    Group,
    Lines,
    Picture,
    Section,
    SideBySide,
    Table,
    as_html,
)

TITLE = "Fine-tuning"
_SHOWN = 12
_METHOD = (
    "Loss: nats per token of the authors' held-out answers, their end-of-turn mark included; bits per byte: the same "
    "over the answers' bytes.",
    "Ended: the share of a model's own likeliest answers that came to an end-of-turn mark; format: the share that "
    "matches evaluation.pattern; same: word for word the author's.",
    "Held-out questions are never among those trained on.",
)


def sections(answers: Path, curve: Path) -> list[Section]:
    """Return all there is to see of the stage folder `answers`, with the PNG `curve` of the training."""
    results = read_results(answers)
    samples: list[Block] = [
        SideBySide(
            one["question"],
            [
                ("the author", one["author"], ""),
                ("before", one["before"], _note(one["before_ended"])),
                ("after", one["after"], _note(one["after_ended"])),
            ],
        )
        for one in pq.ParquetFile(answers / "samples" / "part-00000.parquet").read().to_pylist()[:_SHOWN]
    ]
    drawn = Picture(curve.read_bytes(), "Loss on training and held-out answers, learning rate, gradient norm and speed")
    return [
        Section("Before and after", [before_and_after(results)]),
        Section("How it learned", [drawn]),
        Section("Held-out questions answered", samples),
        Section("How it was measured", [Lines(_METHOD)]),
    ]


def html(answers: Path, curve: Path) -> str:
    """Return the page, which needs nothing from elsewhere."""
    return as_html(TITLE, sections(answers, curve))


def before_and_after(results: Sequence[Result]) -> Table:
    """Return the table of all models."""
    asked = any(row.formatted is not None for row in results)  # for a format, by a pattern
    header = ["loss", "bits per byte", "ended", *(["format"] if asked else []), "same", "tokens"]
    rows = [
        [
            Cell(f"{row.loss:.4f}"),
            Cell(f"{row.bits_per_byte:.4f}"),
            Cell(f"{row.ended:.0%}"),
            *([Cell("" if row.formatted is None else f"{row.formatted:.0%}")] if asked else []),
            Cell(f"{row.same:.0%}"),
            Cell(f"{row.tokens:.0f}"),
        ]
        for row in results
    ]
    return Table("model", [row.model for row in results], [Group("", header, rows)])


def read_results(answers: Path) -> list[Result]:
    """Return the table `results` of the stage folder `answers`."""
    rows = pq.ParquetFile(answers / "results" / "part-00000.parquet").read().to_pylist()
    return [Result(**row) for row in rows]


def _note(ended: bool) -> str:
    return "" if ended else "(cut: it did not end)"
