"""`homegrown up`: runs the server, the worker and the deployments of one machine until Ctrl-C."""

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.option("--install", is_flag=True, help="Install a service that starts on boot.")
@click.option("--uninstall", is_flag=True, help="Stop and delete that service.")
@click.pass_obj
def up(store: Store, install: bool, uninstall: bool) -> None:
    """Start the Prefect server, worker and deployments.

    Ctrl-C stops them. A server that already answers at the configured address is used and keeps running. Automations
    mark silent runs as crashed, and start a killed run of a deployment again, at most twice.
    """
    if install and uninstall:
        raise UserError("--install and --uninstall exclude each other; leave one out.")
    if install:
        _install(store)
        return
    if uninstall:
        _uninstall(store)
        return
    import logging
    import os
    from contextlib import ExitStack
    from pathlib import Path

    from rich.console import Console

    # Prefect reads its settings when it is imported. The worker passes them to its runs.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PWD"] = str(Path.cwd())  # pipelines.yaml has it; a program that changes its folder may leave an old one
    logging.getLogger("EventsWorker").setLevel(logging.CRITICAL)  # Prefect's, about a server that is slow or away
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


def _install(store: Store) -> None:
    import shlex
    from pathlib import Path

    from homegrown.cli import service
    from homegrown.config.pipelines import PIPELINES
    from homegrown.util import locks

    if not PIPELINES.is_file():
        raise UserError(f"{PIPELINES} does not exist in {Path.cwd()}; install the service in the project's folder.")
    wanted = service.service(Path.cwd(), store.root)
    installed = wanted.file.exists() and wanted.is_ours
    if not installed and not locks.is_free(store.root / ".state" / "locks" / "up"):
        raise UserError(
            "`homegrown up` runs for this store; stop it by Ctrl-C in its terminal, then install the service."
        )
    if not wanted.is_ours:
        click.confirm(f"{wanted.file} was not written for this folder. Overwrite it?", abort=True)
    problem = service.install(wanted)
    click.echo(f"Wrote {wanted.file}.")
    if left_out := service.left_out():
        click.echo(f"The service does not get {', '.join(left_out)}; set what it needs in {Path.cwd() / '.env'}.")
    if problem:
        click.echo(f"It was not started ({problem}). Start it with:")
        for command in wanted.start:
            click.echo(f"  {shlex.join(command)}")
    else:
        click.echo(f"Started {wanted.name}; see `homegrown status`.")


def _uninstall(store: Store) -> None:
    from pathlib import Path

    from homegrown.cli import service

    installed = service.service(Path.cwd(), store.root)
    problem = service.uninstall(installed)
    click.echo(f"Deleted {installed.file}.")
    if problem:
        click.echo(f"It could not be stopped ({problem}); it stops with the machine.")


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
