"""`homegrown report`: pages to read."""

from pathlib import Path

import click

from homegrown.artifacts import Store


@click.group()
def report() -> None:
    """Write a report as one HTML page."""


@report.command("corpus")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="corpus.html",
    show_default=True,
    help="Page to write.",
)
@click.pass_obj
def report_corpus(store: Store, out: Path) -> None:
    """Show what became of the latest corpus: what was read, dropped and why, with examples, and what is kept."""
    from homegrown.corpus.account import account, latest_chain
    from homegrown.corpus.report import html
    from homegrown.files import replacing

    chain = latest_chain(store)
    page = html(account(chain, store.root / ".state" / "duckdb"))
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{out}: {' → '.join(artifact.name for artifact in chain.values())}")
