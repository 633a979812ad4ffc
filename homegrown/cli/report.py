"""`homegrown report`: HTML reports."""

from pathlib import Path

import click

from homegrown.cli.options.output import Out, written
from homegrown.store.artifacts import Store


@click.group()
def report() -> None:
    """Write a report as one HTML file."""


@report.command("corpus")
@click.option("--out", type=Out(), default="corpus.html", show_default=True, help="Report to write.")
@click.pass_obj
def report_corpus(store: Store, out: Path) -> None:
    """Report on the latest corpus.

    Shows what was read, dropped and kept, with the reason and examples of dropped documents.
    """
    from homegrown.corpus.account import account, latest_chain
    from homegrown.corpus.corpus_report import html

    chain = {stage: store.fetch(artifact) for stage, artifact in latest_chain(store).items()}
    page = html(account(chain, store.root / ".state" / "duckdb"))
    with written(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{out}: {' → '.join(artifact.name for artifact in chain.values())}")


@report.command("evaluation")
@click.argument("artifact", default="evaluate", metavar="[EVALUATE[@VERSION]]")
@click.option("--out", type=Out(), default="evaluation.html", show_default=True, help="Report to write, .html or .md.")
@click.pass_obj
def report_evaluation(store: Store, artifact: str, out: Path) -> None:
    """Report on an evaluation.

    Shows every variant of the model, the previous version, baselines, results of lm-eval, and ratings.
    """
    from homegrown.evaluation.evaluation_report import TITLE
    from homegrown.evaluation.joined import everything
    from homegrown.reporting.blocks import as_markdown
    from homegrown.reporting.html import as_html
    from homegrown.util.errors import UserError

    writers = {".html": lambda parts: as_html(TITLE, parts), ".md": lambda parts: f"# {TITLE}\n\n{as_markdown(parts)}"}
    if out.suffix not in writers:
        raise UserError(f"{out} is neither HTML nor Markdown; choose a name that ends in .html or .md.")
    found = store.resolve(artifact)
    if found.manifest.stage != "evaluate":
        answers = [
            one.path / "report.html"
            for one in store.all()
            if one.manifest.stage in ("answers", "win-rate")
            and found.manifest.key
            in (one.manifest.key, *(one.manifest.inputs.get(name) for name in ("finetune", "dpo", "model")))
        ]
        page = f", or open the report of its answers, {answers[-1]}" if answers else ""
        raise UserError(f"{found.name} is not an evaluation; name a version of evaluate{page}.")
    page = writers[out.suffix](everything(store, found))
    with written(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{out}: {found.name}")


@report.command("ratings")
@click.option("--out", type=Out(), help="Report to write besides.")
@click.pass_obj
def report_ratings(store: Store, out: Path | None) -> None:
    """Report on the ratings by people.

    Shows mean scores with intervals, and the agreement between raters.
    """
    from homegrown.rating.ratings import all_answers
    from homegrown.rating.ratings_report import html, method, table
    from homegrown.rating.summary import summarize
    from homegrown.reporting.terminal import print_table
    from homegrown.store.artifacts import RATINGS

    summary = summarize(all_answers(store.root / RATINGS))
    print_table(table(summary))
    click.echo(method(summary))
    if out:
        with written(out) as temporary:
            temporary.write_text(html(summary), encoding="utf-8")
        click.echo(f"Written: {out}")
