"""The HTML report of a fine-tuning: figures before and after, the training curve, and answers side by side."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from homegrown.finetuning.answers import Result
from homegrown.reporting.blocks import Block, Lines, Picture, Section, SideBySide, Table
from homegrown.reporting.html import as_html

TITLE = "Fine-tuning"
_SHOWN = 12
_METHOD = (
    "Loss: nats per token of the held-out reference answers, with their end-of-turn tokens. Bits per byte: the same "
    "per byte of the answers.",
    "Ended: share of greedy answers that reach an end-of-turn token. Format: share that matches evaluation.pattern. "
    "Right: share whose last match is that of the reference. Same: share equal to the reference, word for word.",
    "No held-out question is in the training data.",
)


def sections(answers: Path, curve: Path) -> list[Section]:
    """Return the sections of the stage folder `answers`, with the PNG `curve` of the training."""
    results = read_results(answers)
    samples: list[Block] = [
        SideBySide(
            one["question"],
            [
                ("reference", one["author"], ""),
                ("before", one["before"], note(one["before_ended"])),
                ("after", one["after"], note(one["after_ended"])),
            ],
        )
        for one in pq.ParquetFile(answers / "samples" / "part-00000.parquet").read().to_pylist()[:_SHOWN]
    ]
    drawn = Picture(curve.read_bytes(), "Loss on training and held-out answers, learning rate, gradient norm and speed")
    return [
        Section("Before and after", [before_and_after(results)]),
        Section("Training", [drawn]),
        Section("Answers to held-out questions", samples),
        Section("Method", [Lines(_METHOD)]),
    ]


def html(answers: Path, curve: Path) -> str:
    """Return the page."""
    return as_html(TITLE, sections(answers, curve))


def before_and_after(results: Sequence[Result]) -> Table:
    """Return the table of all models."""
    has_format = any(row.formatted is not None for row in results)
    header = ["model", "loss", "bits per byte", "ended", *(["format", "right"] if has_format else []), "same", "tokens"]
    rows = [
        [
            row.model,
            f"{row.loss:.4f}",
            f"{row.bits_per_byte:.4f}",
            f"{row.ended:.0%}",
            *(["" if share is None else f"{share:.0%}" for share in (row.formatted, row.right)] if has_format else []),
            f"{row.same:.0%}",
            f"{row.tokens:.0f}",
        ]
        for row in results
    ]
    return Table(header, rows)


def read_results(answers: Path) -> list[Result]:
    """Return the table `results` of the stage folder `answers`."""
    rows = pq.ParquetFile(answers / "results" / "part-00000.parquet").read().to_pylist()
    return [Result(**row) for row in rows]


def note(ended: bool) -> str:
    """Return the small print of an answer."""
    return "" if ended else "(cut at the token limit)"
