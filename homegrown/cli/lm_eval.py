"""`homegrown lm-eval`: a model measured by lm-evaluation-harness."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from homegrown.store.artifacts import Artifact, Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.util.progress import Outcome

STAGE = "lm-eval"


@click.command("lm-eval")
@click.argument("artifact", default="pretrain", metavar="[PRETRAIN[@VERSION]]")
@click.option("--tasks", help="Names, with commas between; by default the two that are made of held-out text.")
@click.option(
    "--include-path",
    "include",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tasks of your own, as YAML.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Most documents of each task.")
@click.option("--num-fewshot", "few_shot", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--download", is_flag=True, help="Allow to fetch the text of tasks from the Hugging Face hub.")
@click.pass_obj
def lm_eval(
    store: Store,
    artifact: str,
    tasks: str | None,
    include: Path | None,
    limit: int | None,
    few_shot: int,
    device: str,
    download: bool,
) -> None:
    """Measure a model on tasks of lm-evaluation-harness; the figures are an artifact, and join the evaluation's page.

    Nothing is fetched from elsewhere without --download. `homegrown report evaluation` shows the figures beside the
    others of the same model.
    """
    from datetime import UTC, datetime

    from homegrown.harness.heldout import TASKS
    from homegrown.harness.run import measure, require
    from homegrown.store import runs
    from homegrown.store.artifacts import Order
    from homegrown.store.fingerprint import code_fingerprint
    from homegrown.store.lookup import with_model
    from homegrown.util import devices

    require()
    names = list(TASKS) if tasks is None else list(dict.fromkeys(filter(None, map(str.strip, tasks.split(",")))))
    if not names:
        raise UserError("--tasks names none; leave it out for the two that are made of held-out text.")
    model = with_model(store, store.resolve(artifact))
    if not (model.path / "model").is_dir():
        raise UserError(f"{artifact} holds no model; name a version of pretrain or finetune.")
    shards = _shards(store, model) if set(names) & set(TASKS) else None
    settings = {"tasks": names, "limit": limit, "few_shot": few_shot, "include": _digests(store, include)}
    order = Order(
        STAGE,
        code_fingerprint(["homegrown.harness.run"], store.root / ".state" / "digests.sqlite"),
        settings,
        {"pretrain": model.manifest.key, **({"shard": shards.manifest.key} if shards else {})},
    )

    def build(out: Path) -> "Outcome":
        return measure(
            out,
            model.path,
            shards.path if shards else None,
            names,
            include=include,
            limit=limit,
            few_shot=few_shot,
            device=devices.resolve(device),
            download=download,
        )

    name = f"{STAGE}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with runs.ongoing(store, name, {"name": STAGE, "artifact": model.name, **settings}) as log:
        log.reach(order.key)
        made = store.find(STAGE, order.key) or store.make(order, store.slot(STAGE, order.key), build)[0]
        log.made(STAGE, made.manifest.key, made.path.name)
    _print(made)


def _shards(store: Store, model: Artifact) -> Artifact:
    for one in store.lineage(model):
        if one.manifest.stage == "shard":
            return one
    raise UserError(
        f"The held-out text of {model.name} is not here: it grew elsewhere, or its shards are gone (its recipe with "
        "--until shard makes them again); --tasks names tasks that need none."
    )


def _digests(store: Store, folder: Path | None) -> dict[str, str]:
    """Return the digest of every file of a folder of tasks: they are input, by content."""
    from homegrown.store.digests import Digests

    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder else []
    with Digests(store.root / ".state" / "digests.sqlite") as digests:
        return {str(file.relative_to(folder)): digests.file(file) for file in files if folder}


def _print(artifact: Artifact) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from homegrown.util.files import read_parquet

    shown = Table("task", "metric", "value", "± standard error", "documents", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in shown.columns:
        column.overflow = "fold"  # a name that is cut is none
    for row in read_parquet(artifact.path / "results").to_pylist():
        error = "–" if row["standard_error"] is None else _figure(row["standard_error"])
        shown.add_row(row["task"], row["metric"], _figure(row["value"]), error, str(row["documents"]))
    Console().print(shown)
    click.echo(f"{artifact.name}: {artifact.path}")


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.3g}"  # of a perplexity of millions nobody reads decimals
