"""`homegrown feedback`: the pairs of answers that people preferred."""

from pathlib import Path

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

_SHOWN = 60
"""Characters of a text in the table."""


@click.command()
@click.option(
    "--export",
    "out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File of pairs for `homegrown dpo --data`.",
)
@click.pass_obj
def feedback(store: Store, out: Path | None) -> None:
    """List or export preferences that people gave.

    They come from thumbs, choices and edits on the page of `homegrown serve`, and from `homegrown rate`. `homegrown
    finetune NAME --feedback` trains on them. The pairs of one in five questions are held out: they never train.
    """
    from homegrown.rating.feedback import HOW, Feedback, lines
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table
    from homegrown.util.files import replacing

    found = Feedback(store).pairs()
    if not found.pairs:
        if out is not None:
            raise UserError(f"There is no feedback to export; {HOW}.")
        click.echo(f"{found.note()} To give some, {HOW}.")
        return
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text("".join(lines(found.pairs)), encoding="utf-8")
        click.echo(f"{found.note()} Written to {out}.")
        return
    rows = [
        [
            f"{pair.given:%Y-%m-%d %H:%M}",
            pair.kind,
            pair.rejected.model,
            "" if pair.rejected.seed is None else str(pair.rejected.seed),
            *(_short(text) for text in (pair.prompt[-1]["content"], pair.chosen.text, pair.rejected.text)),
            "held out" if pair.held_out else "train",
        ]
        for pair in found.pairs
    ]
    header = ["given (UTC)", "by", "model", "seed", "question", "chosen", "rejected", "split"]
    print_table(Table(header, rows, align="lllrllll", notes=[found.note()]))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
