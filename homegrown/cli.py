"""The command line of `homegrown`. A command imports what it needs when it is called."""

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import click

from homegrown.artifacts import KEY_DIGITS, Store
from homegrown.errors import UserError


class _Group(click.Group):
    """A group whose commands end with one sentence and exit code 1 on a mistake that the user can mend."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except UserError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--artifacts",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    default="artifacts",
    envvar="HOMEGROWN_ARTIFACTS",
    show_default=True,
    help="Folder of the artifact store.",
)
@click.version_option(package_name="homegrown")
@click.pass_context
def cli(context: click.Context, root: Path) -> None:
    """Grow a language model of your own, on your own machine, from raw text."""
    # Only what the project itself has to say: libraries' own lines would tear the live display.
    for name in ("homegrown", "tasks", "flows"):
        logging.getLogger(name).addHandler(logging.StreamHandler())
    context.obj = Store(root)


@cli.command()
@click.argument("pipeline")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in training.max_steps=200."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--only", metavar="STAGE", help="Run this stage again, and make only what is missing before it.")
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage again although it is cached.")
@click.pass_obj
def run(
    store: Store, pipeline: str, changes: tuple[str, ...], until: str, only: str | None, force: tuple[str, ...]
) -> None:
    """Run PIPELINE of pipelines.yaml; what is already made is taken as it is.

    Uses the Prefect server at the configured address, and starts one for the run where none answers.
    """
    from homegrown.pipelines import load_recipe

    recipe = load_recipe(pipeline, changes)
    runner = next(iter(entry_points(group="homegrown.run"))).load()
    runner(recipe, store, only or until, [only] if only else list(force))


@cli.command()
@click.argument("pipeline")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in training.max_steps=200."
)
@click.option("--gpu", metavar="NAME", help="Plan for this GPU by its public specifications, such as h100 or rtx4090.")
@click.option("--count", type=click.IntRange(min=1), help="How many GPUs; default: the recipe's compute.processes.")
@click.option(
    "--mfu",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Model FLOPs utilisation to assume of --gpu; default: 0.4.",
)
@click.option("--watts", type=click.FloatRange(min=0, min_open=True), help="Power of a device; default: see the plan.")
@click.option("--measure/--no-measure", default=True, help="Train a few steps here to see how long all will take.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_obj
def plan(
    store: Store,
    pipeline: str,
    changes: tuple[str, ...],
    gpu: str | None,
    count: int | None,
    mfu: float | None,
    watts: float | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Say what PIPELINE will take, before anything is spent: text, memory, time, energy.

    Time on this machine is measured by a few real steps on made-up tokens, which takes some twenty seconds and leaves
    nothing. Runs that there were are shown beside what is predicted.
    """
    import json

    from rich.console import Console

    from homegrown.pipelines import load_recipe
    from homegrown.planning import gpus
    from homegrown.planning.machine import this_machine
    from homegrown.planning.plan import make_plan
    from homegrown.planning.render_plan import print_plan
    from homegrown.planning.target import gpus_as_target, this_machine_as_target

    if gpu is None and (count or mfu):
        raise UserError("--count and --mfu belong to --gpu; this machine is measured, with compute.processes devices.")
    recipe = load_recipe(pipeline, changes)
    if gpu is None:
        target = this_machine_as_target(this_machine(), recipe, watts)
    else:
        target = gpus_as_target(gpus.find(gpu), count or recipe.compute.processes, recipe, watts)
    made = make_plan(recipe, store, target, measure=measure, utilisation=mfu)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        print_plan(Console(), made)


@cli.command()
@click.argument("pipeline", required=False)
@click.option("--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in compute.processes=2.")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.pass_context
def doctor(context: click.Context, pipeline: str | None, changes: tuple[str, ...], as_json: bool) -> None:
    """Look at this machine: does homegrown run on it, and does PIPELINE?

    Ends with exit code 1 where something stands in the way, and says what to do. Below it is what hardware each recipe
    wants.
    """
    import json

    from rich.console import Console

    from homegrown.pipelines import load_recipe, pipeline_names
    from homegrown.planning.doctor import diagnose
    from homegrown.planning.machine import this_machine
    from homegrown.planning.render_doctor import print_diagnosis

    if pipeline is None and changes:
        raise UserError("--set changes a pipeline; name it, as in `homegrown doctor tiny --set compute.processes=2`.")
    recipe = load_recipe(pipeline, changes) if pipeline else None
    found = diagnose(this_machine(), context.obj, [load_recipe(name) for name in pipeline_names()], recipe)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_diagnosis(Console(), found.checks, found.wants)
    context.exit(0 if found.healthy else 1)


@cli.group(invoke_without_command=True)
@click.pass_context
def artifacts(context: click.Context) -> None:
    """List every version of every artifact."""
    if context.invoked_subcommand is None:
        rows = [
            (
                artifact.name,
                artifact.manifest.key[:KEY_DIGITS],
                f"{artifact.manifest.started:%Y-%m-%d %H:%M}",
                f"{artifact.manifest.seconds:.1f} s",
                f"{artifact.manifest.rows_out:,} {artifact.manifest.unit}",
                f"{artifact.manifest.bytes / 1e6:,.1f} MB",
            )
            for artifact in context.obj.all()
        ]
        _print_table(("artifact", "key", "made", "time", "rows", "size"), rows)


@artifacts.command()
@click.argument("name", metavar="STAGE[@VERSION]")
@click.pass_obj
def show(store: Store, name: str) -> None:
    """Print an artifact's manifest, what it was made from, and what was made from it."""
    artifact = store.resolve(name)
    click.echo(artifact.manifest.model_dump_json(indent=2))
    click.echo(f"\nfolder     {artifact.path}")
    click.echo(f"made from  {', '.join(one.name for one in store.lineage(artifact)) or 'raw input'}")
    click.echo(f"used by    {', '.join(one.name for one in store.outputs(artifact)) or 'nothing yet'}")
    click.echo(f"files      {store.damage(artifact) or 'whole: every size and digest is as published'}")


@cli.command()
@click.option(
    "--keep-runs", default=5, show_default=True, type=click.IntRange(min=0), help="Runs of each recipe to keep."
)
@click.option("--keep", multiple=True, metavar="STAGE@VERSION", help="Artifact to keep with all that it was made from.")
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be deleted.")
@click.pass_obj
def gc(store: Store, keep_runs: int, keep: tuple[str, ...], yes: bool) -> None:
    """Free what no recent run and no kept artifact stands on."""
    from homegrown import runs

    found = runs.garbage(store, keep_runs, list(keep))
    rows = [(str(item.path), f"{item.bytes / 1e6:,.1f} MB", item.reason) for item in found]
    _print_table(("folder", "size", "why"), rows)
    total = sum(item.bytes for item in found) / 1e6
    if yes:
        freed = [store.delete(item.path) for item in found]
        click.echo(f"Deleted {sum(freed)} of {len(found)} folders; those that somebody works in were left.")
    else:
        click.echo(f"{len(found)} folders, {total:,.1f} MB. Nothing was deleted; add --yes to delete them.")


@cli.command()
@click.argument("statement")
@click.option("--rows", default=40, show_default=True, type=click.IntRange(min=1), help="Most rows to print.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all rows as CSV.")
@click.pass_obj
def sql(store: Store, statement: str, rows: int, as_csv: bool) -> None:
    """Run SQL (DuckDB) over views of every artifact.

    `dedup.dropped` is a table of the latest dedup, `"dedup@3".dropped` of its version 3; `artifacts`, `files`, `runs`
    and `SHOW ALL TABLES` say what is there. `documents`, `dropped` (of every stage, with `stage` and `reason`),
    `quarantine` and `shards` (with `split`) are of the latest corpus.

    What is like a document, by the signatures that dedup keeps:

    \b
      SELECT other.id, similarity(one.signature, other.signature) AS jaccard
      FROM dedup.signatures one, dedup.signatures other
      WHERE one.id = '...' ORDER BY jaccard DESC LIMIT 10
    """
    from homegrown import catalog

    with catalog.connect(store) as connection:
        if as_csv:
            catalog.write_csv(connection, statement, sys.stdout)
        else:
            click.echo(catalog.show(connection, statement, rows), nl=False)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--dedup", "name", default="dedup", show_default=True, metavar="STAGE[@VERSION]", help="Which signatures."
)
@click.option("--most", default=10, show_default=True, type=click.IntRange(min=1), help="Most documents to print.")
@click.pass_obj
def similar(store: Store, file: Path, name: str, most: int) -> None:
    """Print what in the corpus is like FILE, a text: estimated Jaccard similarity, id, source, path, start of text.

    Everything that was ingested is looked at, also what was dropped. `homegrown sql --help` asks the same in SQL.
    """
    from homegrown.corpus import similar as engine
    from homegrown.corpus.text import Undecodable, clean, decode
    from homegrown.recipe import DedupSettings

    artifact = store.resolve(name)
    ingested = next((one for one in store.inputs(artifact) if one.manifest.stage == "ingest"), None)
    if artifact.manifest.stage != "dedup" or ingested is None:
        raise UserError(f"{name} is no dedup whose ingest is still there; run the pipeline until dedup again.")
    try:
        text = clean(decode(file.read_bytes()))
    except Undecodable as error:
        raise UserError(f"{file} is no text: {error}.") from error
    recorded = dict(artifact.manifest.settings)
    matches = engine.similar(
        text,
        artifact.path / "signatures",
        ingested.path / "documents",
        DedupSettings.model_validate(recorded["settings"]),
        seed=recorded["seed"],
        most=most,
    )
    if not matches:
        click.echo("Nothing in the corpus is like it.")
        return
    rows = [
        (f"{match.similarity:.2f}", match.id, match.source, f"{match.path}:{match.position}", _start(match.text_start))
        for match in matches
    ]
    _print_table(("jaccard", "id", "source", "path", "text"), rows)


def _start(text: str) -> str:
    """Return the start of a text in one line."""
    return " ".join(text.split())[:60]


@cli.command()
@click.argument("artifact", default="pretrain", metavar="[STAGE[@VERSION]]")
@click.option("--prompt", default="", help="Text to continue; without one, a new document begins.")
@click.option("--max-length", default=200, show_default=True, type=click.IntRange(min=1), help="Most tokens to write.")
@click.option(
    "--temperature", default=0.8, show_default=True, type=click.FloatRange(min=0), help="0: the likeliest token."
)
@click.option(
    "--top-k", default=40, show_default=True, type=click.IntRange(min=0), help="Choose among so many; 0: all."
)
@click.option("--seed", default=0, show_default=True, help="The same seed writes the same text.")
@click.pass_obj
def generate(
    store: Store, artifact: str, prompt: str, max_length: int, temperature: float, top_k: int, seed: int
) -> None:
    """Have a pretrained model continue a text."""
    from homegrown.model import generation, weights
    from homegrown.tokens import special
    from homegrown.tokens import tokenizer as tokens

    folder = store.resolve(artifact).path / "model"
    if not folder.is_dir():
        raise UserError(f"{artifact} holds no model; name a version of pretrain.")
    model, tokenizer = weights.load(folder), tokens.load(folder)
    marks = special.special_ids(tokenizer)
    ids = [marks.bos, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    written = generation.generate(
        model,
        [ids],
        max_new_tokens=max_length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop_ids=frozenset({marks.eos}),
    )
    click.echo(prompt + tokenizer.decode(written[0]))


@cli.group()
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


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
