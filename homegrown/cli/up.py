"""`homegrown up`: runs the server, the worker and the deployments of one machine until Ctrl-C."""

import click

from homegrown.store.artifacts import Store


@click.command()
@click.pass_obj
def up(store: Store) -> None:
    """Start the Prefect server, worker and deployments.

    Ctrl-C stops them. A server that already answers at the configured address is used and keeps running. Automations
    mark silent runs as crashed, and start a killed run of a deployment again, at most twice.
    """
    import os
    from contextlib import ExitStack
    from pathlib import Path

    from rich.console import Console

    # Prefect reads its settings when it is imported. The worker passes them to its runs.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PWD"] = str(Path.cwd())  # pipelines.yaml has it; a program that changes its folder may leave an old one
    console = Console(highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            with console.status("starting"):
                from flows.local import deployment_file, services
                from homegrown.config.pipelines import PIPELINES

                checked = deployment_file.check(PIPELINES)
                running = services.running(store.root / ".state", checked, PIPELINES, console.print)
                machine = stack.enter_context(running)
            console.print(_greeting(machine.api, machine.own_server, checked.deployments))
            machine.watch()
    except KeyboardInterrupt:
        console.print("Stopped.")


def _greeting(api: str, own_server: bool, deployments: list[str]) -> str:
    from flows.local import server_database, server_owner
    from homegrown.config.pipelines import PIPELINES
    from homegrown.reporting.numbers import file_size

    file = server_database.file() if own_server else None
    database = f"Database: {file}, {file_size(file.stat().st_size)}\n" if file and file.is_file() else ""
    owner = server_owner.other_user(api)
    of = f" of the user {owner}" if owner else ""
    server = "started here" if own_server else f"already running{of}, not stopped by Ctrl-C"
    return (
        f"Prefect UI: [bold]{api.removesuffix('/api')}[/bold] ({server})\n"
        f"{database}"
        f"Deployments of {PIPELINES}: {', '.join(deployments)}\n\n"
        "[bold]Next,[/bold] in another terminal:\n"
        f"  prefect deployment run {deployments[0]}\n"
        f"  prefect deployment run {deployments[0]} --param 'changes=\\[\"training.max_steps=200\"]'\n"
        "  homegrown status\n\n"
        "Ctrl-C stops everything that was started here."
    )
