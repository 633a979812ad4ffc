"""`homegrown sweep`: runs a pipeline for several values of one setting."""

import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.live_display import live_display
from homegrown.cli.local_run import prefect_server
from homegrown.cli.options.output import Out, written
from homegrown.cli.run import stage_name
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.reporting.blocks import Table
from homegrown.reporting.numbers import duration, quantity
from homegrown.reporting.terminal import print_table
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from flows.pretrain import StageName


@click.command()
@click.argument("pipeline")
@click.argument("setting")
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Changed setting of every run; repeatable."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--dry-run", is_flag=True, help="List what each value would run.")
@click.option("--out", type=Out(), help="Report (.html) or chart (.png) to write.")
@click.pass_obj
def sweep(
    store: Store,
    pipeline: str,
    setting: str,
    values: tuple[str, ...],
    changes: tuple[str, ...],
    until: str,
    dry_run: bool,
    out: Path | None,
) -> None:
    """Run a pipeline for several setting values.

    For example `homegrown sweep tiny training.learning_rate 0.01 0.02 0.04`. All values are checked before the first
    run. The runs share cached stages. A failed value does not stop the others; the same command resumes a sweep.
    """
    from homegrown.comparison.page import kind_of

    if out:
        kind_of(out)
    if dry_run and out:
        raise UserError("--dry-run writes no report; leave --out out.")
    if dry_run:
        print_sweep(plan_sweep(pipeline, setting, list(values), list(changes)), store, until)
        return
    run_sweep(plan_sweep(pipeline, setting, list(values), list(changes)), store, until, out)


_VALUE_CHARACTERS = 40


@dataclass(frozen=True)
class Point:
    """One value of a sweep: its recipe and the name of its run."""

    value: str
    recipe: Recipe
    run: str


@dataclass(frozen=True)
class Sweep:
    """One setting over several values."""

    name: str
    setting: str
    points: list[Point]


def plan_sweep(pipeline: str, setting: str, values: list[str], changes: list[str]) -> Sweep:
    """Return the sweep of a pipeline's setting, with every value checked.

    Raises:
        UserError: the pipeline or the setting does not exist, a value has the wrong type or occurs twice, the setting
            has no effect, or `changes` sets it too.
    """
    if any(change.partition("=")[0] == setting for change in changes):
        raise UserError(
            f"{setting} is set by --set and swept; leave --set {setting}=… out, or add its value to the sweep."
        )
    if setting == "name":
        raise UserError("The setting name has no effect on the artifacts; sweep another setting.")
    moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    short = setting.split(".")[-1]
    points: list[Point] = []
    for value in values:
        recipe = load_recipe(pipeline, [*changes, f"{setting}={value}"])
        same = next((point.value for point in points if point.recipe == recipe), None)
        if same is not None:
            raise UserError(f"{setting}: {same} and {value} are the same value; leave one out.")
        shown = re.sub(r"[^A-Za-z0-9.+_-]+", "_", value)[:_VALUE_CHARACTERS]
        points.append(Point(value, recipe, f"{pipeline}-{short}={shown}-{moment}"))
    return Sweep(f"{pipeline}-{short}-{moment}", setting, points)


def print_sweep(sweep: Sweep, store: Store, until: str) -> None:
    """Print what every point would run, what it shares with earlier ones, and what that took last time.

    Raises:
        UserError: the stage does not exist, or a stage of some points would surely fail.
    """
    # Prefect reads its settings when it is imported.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    from flows.pretrain import planned

    last, made, rows, failed = stage_name(until), set[str](), [], {}
    total, unknown = 0.0, False
    for point in sweep.points:
        try:
            stages = planned(point.recipe, last, None, [])
        except UserError as error:
            failed[point.value] = str(error)
            continue
        names = [one.stage for one in stages]
        running = [one for one in stages if one.found is None and one.key not in made]
        took = [one.before.manifest.seconds for one in running if one.before]
        total, unknown = total + sum(took), unknown or len(took) < len(running)
        rows.append(
            [
                point.value,
                _spans(names, {one.stage for one in running}),
                _spans(names, {one.stage for one in stages if one.key in made}),
                _spans(names, {one.stage for one in stages if one.found is not None}),
                duration(sum(took)) if took else "",
            ]
        )
        made |= {one.key for one in running}
    header = [sweep.setting.rpartition(".")[2], "would run", "shared with\nearlier values", "cached", "took\nlast time"]
    print_table(Table(header, rows, align="llllr", title=f"What a sweep of {sweep.setting} would run"))
    for value, message in failed.items():
        click.echo(f"{sweep.setting} = {value} would fail: {message}")
    before = "; no earlier run has measured them"
    if total:
        before = f"; {'those made before' if unknown else 'they'} took {duration(total)} last time"
    click.echo(f"{quantity(len(made), 'stages')} would run for {quantity(len(rows), 'values')}{before}.")
    if failed:
        raise UserError(f"{len(failed)} of {len(sweep.points)} values of {sweep.setting} would fail; change them.")


def _spans(stages: Sequence[str], some: Collection[str]) -> str:
    """Return some of the stages in short: the first and the last of those in a row."""
    groups = [(chosen, list(names)) for chosen, names in itertools.groupby(stages, lambda one: one in some)]
    spans = [f"{names[0]} to {names[-1]}" if len(names) > 2 else ", ".join(names) for chosen, names in groups if chosen]
    return ", ".join(spans)


def run_sweep(sweep: Sweep, store: Store, until: str, out: Path | None = None) -> None:
    """Run every point of a sweep up to the stage `until` and print the results; write their page to `out`.

    All runs share one server.

    Raises:
        UserError: the stage does not exist, or some points failed.
    """
    console = Console()
    failed: dict[str, str] = {}
    with prefect_server(store, console, lambda: stage_name(until)) as (last, address):
        from flows.pretrain import SWEEP_TAG

        tag = SWEEP_TAG + sweep.name
        console.print(f"Watch it at {address}/runs, tag {tag}", highlight=False, soft_wrap=True)
        for number, point in enumerate(sweep.points, 1):
            console.print(
                f"\n[bold]{sweep.setting} = {point.value}[/bold] ({number} of {len(sweep.points)})", highlight=False
            )
            error = _run_point(console, point, last, tag)
            if error:
                failed[point.value] = error
                console.print(f"failed: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    _show(console, sweep, store, failed, out)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(sweep.points)} values of {sweep.setting} failed ({', '.join(failed)}); fix the "
            "errors above and run the same command again."
        )


def _run_point(console: Console, point: Point, last: "StageName", tag: str) -> str | None:
    """Run one point; return its error message, or None."""
    from prefect import tags

    from flows.pretrain import pretrain, shown_stages

    try:
        with tags(tag), live_display(console, shown_stages(point.recipe, last)):
            pretrain.with_options(flow_run_name=lambda: point.run)(recipe=point.recipe, until=last)
    except UserError as error:
        return str(error)
    except Exception as error:  # any error of one value; the other values still run
        return f"{type(error).__name__}: {error}"
    return None


def _show(console: Console, sweep: Sweep, store: Store, failed: dict[str, str], out: Path | None) -> None:
    from homegrown.comparison.compare import compare
    from homegrown.comparison.page import render
    from homegrown.comparison.tables import points_table
    from homegrown.store import runs

    records = runs.recorded(store)
    names = [name for name, run in records.items() if run.sweep == sweep.name and run.finished]
    if not names:
        return
    comparison = compare(store, records, names)
    values = {point.run: point.value for point in sweep.points}
    console.print()
    print_table(points_table(comparison, sweep.setting, [values.get(name, name) for name in names]))
    if out:
        content = render(comparison, out)
        with written(out) as temporary:
            temporary.write_bytes(content)
        console.print(f"Wrote {out}", highlight=False)
    elif len(names) > 1:
        console.print(f"More: homegrown compare {sweep.name} --out sweep.html", highlight=False, soft_wrap=True)
