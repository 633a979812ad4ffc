"""`homegrown adapt`: continues the pretraining of a model on one's own text."""

from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow
from homegrown.cli.run import report, stage_name
from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from tasks.stage import Handle


@click.command()
@click.argument("base")
@click.option("--data", multiple=True, metavar="PATH", help="Path or address of text; repeatable.")
@click.option("--replay", multiple=True, metavar="PATH", help="Other text to mix in; repeatable.")
@click.option("--time", metavar="DURATION", help="Training time, such as 45m.")
@click.option(
    "--recipe", "name", metavar="NAME", default="starter", show_default=True, help="Recipe of pipelines.yaml."
)
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Changed setting, such as adaptation.method=full."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--force", metavar="STAGE", multiple=True, help="Cached stage to run again; repeatable.")
@click.pass_obj
def adapt(
    store: Store,
    base: str,
    data: tuple[str, ...],
    replay: tuple[str, ...],
    time: str | None,
    name: str,
    changes: tuple[str, ...],
    until: str,
    force: tuple[str, ...],
) -> None:
    """Continue pretraining a model on your own text.

    BASE is `starter` (SmolLM2-135M-Instruct from a package), a model of the store such as pretrain@3, a local folder of
    a Hugging Face model, or a GGUF file. Without --data, the text is that of the recipe. --replay reduces what the
    model forgets. With --time, the steps are those that this machine takes in it. The evaluation has the base beside
    the result.
    """
    console = Console()

    def prepare() -> "Flow[dict[str, Handle]]":
        from flows.adapt import adapt, adaptation_changes
        from flows.pretrain import check, forced_stages, shown_stages
        from homegrown.config.pipelines import load_recipe
        from homegrown.planning.budget import seconds_of

        recipe = load_recipe(name, [*adaptation_changes(base, data, replay), *changes])
        if time is not None:
            seconds_of(time)
        last, forced = stage_name(until), [stage_name(stage) for stage in force]
        forced_stages(last, None, forced)
        check(recipe, last)
        return shown_stages(recipe, last), lambda: adapt(
            recipe=recipe, changes=list(changes), time=time, until=last, force=forced
        )

    made = run_flow(store, console, prepare)
    model = made["pretrain"].name if "pretrain" in made else "pretrain"
    commands = [f"chat {model}", "report evaluation", f"export {model} --to gguf --out my-model"]
    report(console, {stage: handle.path for stage, handle in made.items()}, commands)
