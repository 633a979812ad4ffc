"""`homegrown artifacts`: what is in the store."""

import click

from homegrown.artifacts import KEY_DIGITS, Store
from homegrown.commands.tables import print_table


@click.group(invoke_without_command=True)
@click.pass_context
def artifacts(context: click.Context) -> None:
    """List every version of every artifact."""
    if context.invoked_subcommand is None:
        rows = [
            (
                artifact.name,
                artifact.manifest.key[:KEY_DIGITS],
                f"{artifact.manifest.started:%Y-%m-%d %H:%M}",
                f"{artifact.manifest.seconds:.1f} s",
                f"{artifact.manifest.rows_out:,} {artifact.manifest.unit}",
                f"{artifact.manifest.bytes / 1e6:,.1f} MB",
            )
            for artifact in context.obj.all()
        ]
        print_table(("artifact", "key", "made", "time", "rows", "size"), rows)


@artifacts.command()
@click.argument("name", metavar="STAGE[@VERSION]")
@click.pass_obj
def show(store: Store, name: str) -> None:
    """Print an artifact's manifest, what it was made from, and what was made from it."""
    artifact = store.resolve(name)
    click.echo(artifact.manifest.model_dump_json(indent=2))
    click.echo(f"\nfolder     {artifact.path}")
    click.echo(f"made from  {', '.join(one.name for one in store.lineage(artifact)) or 'raw input'}")
    click.echo(f"used by    {', '.join(one.name for one in store.outputs(artifact)) or 'nothing yet'}")
    click.echo(f"files      {store.damage(artifact) or 'whole: every size and digest is as published'}")
