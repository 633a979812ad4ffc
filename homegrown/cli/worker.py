"""`homegrown worker`: trains together with a run on another machine."""

import click


@click.command()
@click.option("--join", "address", required=True, metavar="HOST:PORT", help="compute.rendezvous of the run.")
def worker(address: str) -> None:
    """Train together with a run on another machine.

    It waits for a run whose compute.nodes is 2 or more, and for the next one after that, until Ctrl-C. Both machines
    need this version of homegrown, and the folder of the artifacts at the same path. Join only machines you trust: the
    run decides what is executed here.
    """
    from homegrown.training.launcher import join
    from homegrown.training.nodes import invited
    from tasks.locks import computing_on

    try:
        while True:
            click.echo(f"Waiting for a run at {address}.")
            invitation = invited(address)
            click.echo(f"Training with {invitation.processes} of {invitation.processes * invitation.nodes} processes.")
            with computing_on(invitation.device, invitation.processes):
                complete = join(address, invitation)
            click.echo("The training has ended." if complete else "The run was lost; its checkpoints remain.")
    except KeyboardInterrupt:
        click.echo("Left; the run waits for this machine to come back.")
