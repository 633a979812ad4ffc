"""`homegrown run`: runs a pipeline in this process."""

import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow
from homegrown.reporting.blocks import Table
from homegrown.reporting.numbers import duration, quantity, shown
from homegrown.reporting.terminal import print_table
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.files import read_parquet

if TYPE_CHECKING:
    from flows.pretrain import Complete, StageName
    from homegrown.config.recipe import Recipe
    from homegrown.planning.budget import Budget
    from homegrown.planning.gpus import Gpu
    from tasks.stage import Handle


@click.command()
@click.argument("pipeline")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SETTING=VALUE",
    help="Changed setting, such as training.max_steps=200; repeatable.",
)
@click.option("--until", metavar="STAGE", help="Last stage to run; default: evaluate.")
@click.option("--from", "from_stage", metavar="STAGE", help="First stage to run again.")
@click.option("--force", metavar="STAGE", multiple=True, help="Cached stage to run again; repeatable.")
@click.option("--only", metavar="STAGE", help="Single stage to run again.")
@click.option("--dry-run", is_flag=True, help="List what would run, and why.")
@click.option("--time", metavar="DURATION", help="Training time of auto, such as 45m.")
@click.option("--size", metavar="NUMBER", help="Parameters of auto, such as 30M.")
@click.option("--tokens", metavar="NUMBER", help="Training tokens of auto, such as 100M.")
@click.option("--gpu", metavar="NAME", help="GPU of auto, such as h100.")
@click.option("--data", multiple=True, metavar="PATH", help="Text of auto; repeatable.")
@click.pass_obj
def run(
    store: Store,
    pipeline: str,
    changes: tuple[str, ...],
    until: str | None,
    from_stage: str | None,
    force: tuple[str, ...],
    only: str | None,
    dry_run: bool,
    time: str | None,
    size: str | None,
    tokens: str | None,
    gpu: str | None,
    data: tuple[str, ...],
) -> None:
    """Run a pipeline; cached stages are reused.

    PIPELINE is the name of a deployment in pipelines.yaml, or a file with a recipe. The run uses the Prefect server at
    the configured address, or starts one. `auto` chooses the best recipe for --time, --size or --tokens on this
    machine, or by the specification of --gpu; with --dry-run it prints the recipe, which > FILE.yaml keeps for a run.
    """
    from homegrown.config.pipelines import AUTO, change_recipe, load_auto, load_recipe

    given = {"--until": until, "--from": from_stage, "--force": force}
    if only is not None and (others := [name for name, value in given.items() if value]):
        raise UserError(f"--only {only} runs one stage and excludes {others[0]}; leave one of them out.")
    dials = {"--time": time, "--size": size, "--tokens": tokens, "--gpu": gpu, "--data": data}
    if pipeline != AUTO and (others := [name for name, value in dials.items() if value]):
        raise UserError(f"{others[0]} belongs to the pipeline auto; set a setting of {pipeline} with --set.")
    chosen = None
    if gpu is not None:
        from homegrown.planning import gpus
        from homegrown.planning.machine import this_machine

        chosen = gpus.find(gpu)
    recipe = load_recipe(pipeline, changes) if pipeline != AUTO else load_auto()
    end = only if only is not None else until if until is not None else "evaluate"
    again = force if only is None else (only,)
    console = Console()

    def named() -> "tuple[StageName, StageName | None, list[StageName]]":
        first = None if from_stage is None else stage_name(from_stage)
        return stage_name(end), first, [stage_name(name) for name in again]

    if dry_run:
        from homegrown.corpus.sources import finding_once

        # Prefect reads its settings when it is imported.
        os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
        with finding_once():
            if pipeline == AUTO:
                from flows.auto import text_changes
                from homegrown.planning.budget import Budget

                budget = Budget.of(time, size, tokens)
                _print_choice(change_recipe(recipe, text_changes(data)), budget, chosen, list(changes), *named())
            else:
                _print_plan(recipe, *named())
        return

    def prepare() -> "Flow[dict[str, Handle]]":
        from flows.auto import auto, text_changes
        from flows.pretrain import check, forced_stages, known_until, pretrain, shown_stages
        from homegrown.planning.budget import Budget
        from tasks import dial

        last, first, forced = named()
        forced_stages(last, first, forced)
        stages = shown_stages(recipe, last)
        if pipeline != AUTO:
            check(recipe, last)
            return stages, lambda: pretrain(recipe=recipe, until=last, from_stage=first, force=forced)
        Budget.of(time, size, tokens)
        if chosen is not None:
            gpus.require(chosen, this_machine())
        before, _ = dial.split(list(changes))
        check(change_recipe(change_recipe(recipe, text_changes(data)), before), known_until(last))
        return stages, lambda: auto(
            time=time,
            size=size,
            tokens=tokens,
            gpu=gpu,
            data=list(data),
            changes=list(changes),
            recipe=recipe,
            until=last,
            from_stage=first,
            force=forced,
        )

    given_again = [part for name, value in dials.items() for one in _each(value) for part in (name, one)]
    made = {stage: handle.path for stage, handle in run_flow(store, console, prepare).items()}
    commands = [
        "generate --prompt 'Return the'",
        "sql 'select rule, count(*) from filter.dropped group by rule'",
        shlex.join(["run", pipeline, *given_again, "--set", "evaluation.samples=64"]),
        "chat starter",
    ]
    starter = None
    if pipeline == AUTO and "evaluate" in made:
        from homegrown.evaluation.starter_score import known_score

        starter = known_score(store, made["shard"])
        shared = {"--data": data, "--time": time}
        given_adapt = [part for name, value in shared.items() for one in _each(value) for part in (name, one)]
        commands = [
            shlex.join(["generate", "--prompt", _first_words(made["evaluate"])]),
            "serve",
            "report corpus",
            "report evaluation",
            *([] if starter is None else [shlex.join(["adapt", "starter", *given_adapt])]),
        ]
    report(console, made, commands, starter)


def _first_words(evaluation: Path) -> str:
    """Return the first words of a document that the model has not read, to continue."""
    first = str(read_parquet(evaluation / "continuations", ["prompt"])["prompt"][0].as_py())
    return textwrap.shorten(first, _PROMPT, placeholder="") or first.strip()[:_PROMPT]


def _each(value: str | tuple[str, ...] | None) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or ()


def _print_choice(
    recipe: "Recipe",
    budget: "Budget",
    gpu: "Gpu | None",
    changes: list[str],
    until: "StageName",
    from_stage: "StageName | None",
    force: "list[StageName]",
) -> None:
    """Print the recipe that auto chooses, then what would run."""
    import yaml

    from homegrown.config.pipelines import change_recipe
    from homegrown.planning.dial import Dialed, table
    from tasks import dial

    def show(found: Dialed) -> None:
        values = found.recipe.model_dump(mode="json")
        click.echo(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120), file=out)
        print_table(table(found))
        click.echo()

    out = sys.stdout
    before, after = dial.split(changes)
    with redirect_stdout(sys.stderr):  # standard output has the recipe alone, for a file that `run` takes
        sampled = dial.sampled(change_recipe(recipe, before), budget, after, click.echo, gpu)
        complete = dial.choose(budget, after, show, click.echo, gpu)
        _print_plan(sampled, until, from_stage, force, complete)


def _print_plan(
    recipe: "Recipe",
    until: "StageName",
    from_stage: "StageName | None",
    force: "list[StageName]",
    complete: "Complete | None" = None,
) -> None:
    from flows.pretrain import planned

    stages = planned(recipe, until, from_stage, force, complete)
    rows = [
        [
            one.stage,
            "runs" if one.because else "cached",
            one.because,
            one.before.name if one.before else "",
            duration(one.before.manifest.seconds) if one.before else "",
        ]
        for one in stages
    ]
    print_table(Table(["stage", "state", "because", "last run", "took"], rows, align="llllr"))
    running = [one for one in stages if one.because]
    took = sum(one.before.manifest.seconds for one in running if one.before)
    before = f"; they took {duration(took)} last time" if took else ""
    click.echo(f"{len(running)} of {quantity(len(stages), 'stages')} would run{before}.")


def stage_name(name: str) -> "StageName":
    """Return a name as that of a stage; raise UserError if no stage has it."""
    from flows.pretrain import CHAIN

    for stage in CHAIN:
        if stage == name:
            return stage
    raise UserError(f"Stage {name!r} does not exist; the stages are: {', '.join(CHAIN)}.")


def report(console: Console, made: Mapping[str, Path], commands: Sequence[str], starter: float | None = None) -> None:
    """Print the results of a run: evaluation, artifacts, a sample and the next commands.

    `starter` is the bits per byte of the starter on the text.
    """
    command = _short(Path(sys.argv[0]).absolute())
    if "evaluate" in made:
        print_table(_evaluation(made["evaluate"]))
        console.print()
    if "ingest" in made:
        from homegrown.corpus.account import inputs
        from homegrown.corpus.corpus_report import input_table

        print_table(input_table(inputs(made["ingest"])))
        console.print()
    rows = [[stage, _short(path)] for stage, path in made.items()]
    print_table(Table(["stage", "artifact"], rows, align="ll", title="Artifacts"))
    if "evaluate" in made:
        sample = (made["evaluate"] / "sample.txt").read_text(encoding="utf-8")
        console.print("\n[bold]The model writes:[/bold]")
        console.print(sample, markup=False, highlight=False)
        if "pretrain" in made:
            console.print("\n[bold]In words:[/bold]")
            for line in _in_words(made["evaluate"], starter):
                console.print(line, markup=False, highlight=False)
        console.print("\n[bold]Next:[/bold]")
        for line in commands:
            console.print(f"  {command} {line}", markup=False, highlight=False, soft_wrap=True)


# The columns of the evaluation's results that fit a terminal; `evaluate.results` has all.
_COLUMNS = {
    "variant": "variant",
    "bits_per_byte": "bits/byte",
    "perplexity": "perplexity",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "tokens_per_second": "tokens/s",
    "disk_megabytes": "MB",
}


_OTHERS = {"base": "its base", "xz after": "the file compressor xz", "5-gram": "counts of five tokens in a row"}
"""What else predicts the text, in words, by the beginnings of the variants."""
_PROMPT = 40
"""Characters of a prompt to try."""


def _evaluation(folder: Path) -> Table:
    results = read_parquet(folder / "results", list(_COLUMNS)).to_pylist()
    rows = [[shown(value) for value in row.values()] for row in results if row["bits_per_byte"] is not None]
    return Table(list(_COLUMNS.values()), rows, title="Evaluation on held-out text")


def _in_words(evaluation: Path, starter: float | None) -> list[str]:
    """Return sentences about a model for people who do not know the figures, beside the starter's bits per byte."""
    rows = read_parquet(evaluation / "results", ["variant", "kind", "bits_per_byte"]).to_pylist()
    known = [row for row in rows if row["bits_per_byte"] is not None]
    adapted = any(row["kind"] == "base" for row in known)
    others = {
        name: row["bits_per_byte"]
        for row in known
        for start, name in _OTHERS.items()
        if row["variant"].startswith(start)
    }
    others |= {"the published model `starter`, without your text": starter} if starter is not None else {}
    beside = ", ".join(f"{name} {bits:.2f}" for name, bits in others.items())
    own = known[0]["bits_per_byte"]
    sentences = [
        f"The model needs {own:.2f} bits for a byte (a letter of English) of text that it has not read: fewer is "
        f"better, 8 is knowing nothing. Others: {beside}."
    ]
    if not adapted:
        sentences.append("It continues a text in the manner of those it read; it does not answer, and invents facts.")
    if starter is not None and starter < own:
        sentences.append("The starter predicts your text better: `adapt starter`, below, trains it on your text.")
    return sentences


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
