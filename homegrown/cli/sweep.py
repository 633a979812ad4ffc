"""`homegrown sweep`: one setting over several values."""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import prepare
from homegrown.cli.options.output import Out, written
from homegrown.cli.run import stage_names
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from flows.pretrain import StageName


@click.command()
@click.argument("pipeline")
@click.argument("setting")
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change another one, the same for all values."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--out", type=Out(), help="Page (.html) or picture (.png) of the results.")
@click.pass_obj
def sweep(
    store: Store,
    pipeline: str,
    setting: str,
    values: tuple[str, ...],
    changes: tuple[str, ...],
    until: str,
    out: Path | None,
) -> None:
    """Run PIPELINE once for each VALUE of SETTING, as in `homegrown sweep tiny training.learning_rate 0.01 0.02 0.04`.

    Every value is checked before anything runs. Stages that the runs have in common are made once. A value that fails
    does not stop the others. After a kill the same command goes on.
    """
    from homegrown.comparison.page import kind_of

    if out:
        kind_of(out)
    run_sweep(plan_sweep(pipeline, setting, list(values), list(changes)), store, until, out)


_VALUE_CHARACTERS = 40


@dataclass(frozen=True)
class Point:
    """One value of a sweep: the recipe with it, and the name of its run."""

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
    """Return the sweep of a pipeline's setting, every value checked as a value of its type.

    Raises:
        UserError: no such pipeline or setting, one that changes nothing, a value of the wrong type, the same value
            twice, or a change of the swept setting itself.
    """
    if any(change.partition("=")[0] == setting for change in changes):
        raise UserError(f"{setting} is what is swept; leave --set {setting}=… out, or add its value to the others.")
    if setting == "name":
        raise UserError("name is no setting of what is made; sweep another.")
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


def run_sweep(sweep: Sweep, store: Store, until: str, out: Path | None = None) -> None:
    """Run every point of a sweep up to the stage `until`, and print the results side by side; `out` gets their page.

    One server serves all. A point that fails is told, and the others go on; after a kill the same command goes on, what
    was finished being cached.

    Raises:
        UserError: a stage's name is wrong; or, after everything else has run, some points failed.
    """
    prepare(store)
    console = Console()
    failed: dict[str, str] = {}
    with ExitStack() as services:
        with console.status("starting"):
            from flows.local import server

            [last] = stage_names(until)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        from flows.pretrain import SWEEP_TAG

        where = f"{api.removesuffix('/api')}/runs"
        console.print(f"Watch it at {where}, tag {SWEEP_TAG}{sweep.name}", highlight=False, soft_wrap=True)
        for number, point in enumerate(sweep.points, 1):
            console.print(
                f"\n[bold]{sweep.setting} = {point.value}[/bold] ({number} of {len(sweep.points)})", highlight=False
            )
            error = _run_point(console, sweep, point, last)
            if error:
                failed[point.value] = error
                console.print(f"failed: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    _show(console, sweep, store, failed, out)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(sweep.points)} values of {sweep.setting} failed ({', '.join(failed)}): mend what "
            "is said above and give the same command, which makes only what is missing."
        )


def _run_point(console: Console, sweep: Sweep, point: Point, until: "StageName") -> str | None:
    """Run one point; return what went wrong, None when nothing did."""
    from prefect import tags

    from flows.pretrain import CHAIN, SWEEP_TAG, pretrain
    from homegrown.cli.live_display import live_display

    stages = list(CHAIN)
    try:
        with tags(SWEEP_TAG + sweep.name), live_display(console, stages[: stages.index(until) + 1]):
            pretrain.with_options(flow_run_name=lambda: point.run)(recipe=point.recipe, until=until)
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other values are worth running
        return f"{type(error).__name__}: {error}"
    return None


def _show(console: Console, sweep: Sweep, store: Store, failed: dict[str, str], out: Path | None) -> None:
    from homegrown.comparison.compare import compare
    from homegrown.comparison.page import render
    from homegrown.comparison.tables import points_table
    from homegrown.reporting.terminal import print_table
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
        console.print(f"Written: {out}", highlight=False)
    elif len(names) > 1:
        console.print(f"More: homegrown compare {sweep.name} --out sweep.html", highlight=False, soft_wrap=True)
