"""An export in this process, watched in the terminal: what `homegrown export` does."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.run import prepare, told_in_a_sentence, uncollected
from homegrown.artifacts import Store
from homegrown.exports import check_free, copy_out, find_model

if TYPE_CHECKING:
    from flows.export import Target
    from homegrown.recipe import WeightType


def run_export(store: Store, name: str, to: "Target", type: "WeightType | None", out: Path | None) -> None:
    """Export the model `name`, say where it lies and what runs it, and copy it to the folder `out` if there is one.

    Raises:
        UserError: there is no such model or type, `out` is taken, or the model cannot be exported so.
    """
    prepare(store)
    if out:
        check_free(out)
    find_model(store, name)
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as services:
        with console.status("starting"):
            with uncollected():
                from flows import server
                from flows.export import STAGE, export, export_settings
                from flows.terminal import live_display
                from tasks.export import programs

            export_settings(to, type)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n")
        with told_in_a_sentence(), live_display(console, [STAGE]):
            made = export(name, to, type)
    artifact = store.resolve(f"{made.stage}@{made.folder.split('-')[0]}")
    if out:
        copy_out(artifact, out)
    console.print(f"\n{artifact.name} lies in {out or artifact.path}; what runs it, in one way or another:")
    for command in programs(artifact, out or artifact.path):
        console.print(f"  {command}", markup=False)
