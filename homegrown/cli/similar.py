"""`homegrown similar`: what in the corpus is like a text."""

from pathlib import Path

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--dedup", "name", default="dedup", show_default=True, metavar="STAGE[@VERSION]", help="Which signatures."
)
@click.option("--most", default=10, show_default=True, type=click.IntRange(min=1), help="Most documents to print.")
@click.pass_obj
def similar(store: Store, file: Path, name: str, most: int) -> None:
    """Print what in the corpus is like FILE, a text: estimated Jaccard similarity, id, source, path, start of text.

    Everything that was ingested is looked at, also what was dropped. `homegrown sql --help` asks the same in SQL.
    """
    from homegrown.corpus import similar as engine
    from homegrown.corpus.text import Undecodable, clean, decode
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    artifact = store.resolve(name)
    ingested = next((one for one in store.inputs(artifact) if one.manifest.stage == "ingest"), None)
    if artifact.manifest.stage != "dedup" or ingested is None:
        raise UserError(f"{name} is no dedup whose ingest is still there; run the pipeline until dedup again.")
    try:
        text = clean(decode(file.read_bytes()))
    except Undecodable as error:
        raise UserError(f"{file} is no text: {error}.") from error
    matches = engine.similar(
        text,
        artifact.path / "signatures",
        ingested.path / "documents",
        seed=dict(artifact.manifest.settings)["seed"],
        most=most,
    )
    if not matches:
        click.echo("Nothing in the corpus is like it.")
        return
    rows = [
        [f"{match.similarity:.2f}", match.id, match.source, f"{match.path}:{match.position}", _start(match.text_start)]
        for match in matches
    ]
    print_table(Table(["jaccard", "id", "source", "path", "text"], rows, align="lllll"))


def _start(text: str) -> str:
    """Return the start of a text in one line."""
    return " ".join(text.split())[:60]
