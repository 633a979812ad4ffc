"""`homegrown up`: the server, the worker and the deployments of a single machine, until Ctrl-C."""

import click

from homegrown.store.artifacts import Store


@click.command()
@click.pass_obj
def up(store: Store) -> None:
    """Start what this machine needs for runs in the Prefect UI, and stop it all at Ctrl-C.

    That is a server (the configured one is used where it answers, and left running), a work pool with a worker, the
    deployments of pipelines.yaml, and automations that mark runs as crashed of which nothing is heard any more, and
    start a killed run of a deployment again, twice at most.
    """
    import os
    from contextlib import ExitStack

    from rich.console import Console

    # Before Prefect is imported: it reads its settings then. The worker hands them on to its runs.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    console = Console(highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            with console.status("starting"):
                from flows.local import deployment_file, services
                from homegrown.config.pipelines import PIPELINES

                checked = deployment_file.check(PIPELINES)
                running = services.running(store.root / ".state", checked.pools, PIPELINES, console.print)
                machine = stack.enter_context(running)
            console.print(_greeting(machine.api, machine.own_server, checked.deployments))
            machine.watch()
    except KeyboardInterrupt:
        console.print("Stopped.")


def _greeting(api: str, own_server: bool, deployments: list[str]) -> str:
    from homegrown.config.pipelines import PIPELINES

    server = "its own server" if own_server else "a server that ran already, and stays"
    return (
        f"[bold]{api.removesuffix('/api')}[/bold] shows and starts runs ({server}); a worker waits for them here.\n"
        f"Deployed from {PIPELINES}: {', '.join(deployments)}\n\n"
        "[bold]Next,[/bold] in another terminal:\n"
        f"  prefect deployment run {deployments[0]}\n"
        f"  prefect deployment run {deployments[0]} --param 'changes=\\[\"training.max_steps=200\"]'\n"
        "  homegrown status\n\n"
        "Ctrl-C here stops everything that was started."
    )
