"""`homegrown report`: pages to read."""

from pathlib import Path

import click

from homegrown.cli.options.output import Out, written
from homegrown.store.artifacts import Store


@click.group()
def report() -> None:
    """Write a report: of the corpus, of an evaluation, or of what people thought of the texts."""


@report.command("corpus")
@click.option(
    "--out",
    type=Out(),
    default="corpus.html",
    show_default=True,
    help="Page to write.",
)
@click.pass_obj
def report_corpus(store: Store, out: Path) -> None:
    """Show what became of the latest corpus: what was read, dropped and why, with examples, and what is kept."""
    from homegrown.corpus.account import account, latest_chain
    from homegrown.corpus.report import html

    chain = latest_chain(store)
    page = html(account(chain, store.root / ".state" / "duckdb"))
    with written(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{out}: {' → '.join(artifact.name for artifact in chain.values())}")


@report.command("evaluation")
@click.argument("artifact", default="evaluate", metavar="[EVALUATE[@VERSION]]")
@click.option(
    "--out",
    type=Out(),
    default="evaluation.html",
    show_default=True,
    help="Page to write, .html or .md.",
)
@click.pass_obj
def report_evaluation(store: Store, artifact: str, out: Path) -> None:
    """Show every variant of a model side by side, beside the version before, tasks of lm-eval, and ratings."""
    from homegrown.evaluation.joined import everything
    from homegrown.evaluation.report import TITLE
    from homegrown.reporting.blocks import as_html, as_markdown
    from homegrown.util.errors import UserError

    writers = {".html": lambda parts: as_html(TITLE, parts), ".md": lambda parts: f"# {TITLE}\n\n{as_markdown(parts)}"}
    if out.suffix not in writers:
        raise UserError(f"{out} is neither HTML nor Markdown by its name; let it end in .html or .md.")
    found = store.resolve(artifact)
    if found.manifest.stage != "evaluate":
        answers = [
            one.path / "report.html"
            for one in store.all()
            if one.manifest.stage == "answers"
            and found.manifest.key
            in (one.manifest.key, one.manifest.inputs.get("finetune"), one.manifest.inputs.get("model"))
        ]
        page = f", or open {answers[-1]}, its answers before and after" if answers else ""
        raise UserError(f"{found.name} holds no evaluation; name a version of evaluate{page}.")
    page = writers[out.suffix](everything(store, found))
    with written(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{out}: {found.name}")


@report.command("ratings")
@click.option("--out", type=Out(), help="Page to write besides.")
@click.pass_obj
def report_ratings(store: Store, out: Path | None) -> None:
    """Show what people thought of the texts: means with intervals, and how far raters agree."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from homegrown.rating.answers import all_answers
    from homegrown.rating.report import html, method, table
    from homegrown.rating.summary import summarise
    from homegrown.store.artifacts import RATINGS

    summary = summarise(all_answers(store.root / RATINGS))
    header, rows = table(summary)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in header:
        shown.add_column(title, overflow="fold")
    for row in rows:
        shown.add_row(*(cell.replace(" (", "\n(") for cell in row))
    console = Console()
    console.print(shown)
    console.print(method(summary), highlight=False)
    if out:
        with written(out) as temporary:
            temporary.write_text(html(summary), encoding="utf-8")
        click.echo(f"Written: {out}")
