"""`homegrown verify`: compares the files of all artifacts with their manifests."""

import click

from homegrown.store.artifacts import Store


@click.command()
@click.pass_obj
def verify(store: Store) -> None:
    """Read all artifacts and report damaged ones.

    Other commands trust a digest while a file's size, times and inode stay the same; this one reads every file.
    """
    from homegrown.reporting.numbers import file_size, quantity
    from homegrown.store.digests import sha256
    from homegrown.store.manifest import problem_of

    every = store.all()
    damaged = [f"{folder.relative_to(store.root)}: its manifest cannot be read" for folder in store.damaged()]
    damaged += [f"{one.name}: {problem}" for one in every if (problem := problem_of(one, sha256, store.is_there))]
    for line in damaged:
        click.echo(line)
    size = file_size(sum(one.manifest.bytes for one in every))
    click.echo(f"{quantity(len(every), 'artifacts')}, {size} read; {len(damaged) or 'none'} damaged.")
    if damaged:
        raise SystemExit(1)
