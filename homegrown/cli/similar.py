"""`homegrown similar`: documents of the corpus similar to a text."""

from pathlib import Path

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--dedup",
    "name",
    default="dedup",
    show_default=True,
    metavar="STAGE[@VERSION]",
    help="Artifact to compare with.",
)
@click.option("--most", default=10, show_default=True, type=click.IntRange(min=1), help="Maximum documents to print.")
@click.pass_obj
def similar(store: Store, file: Path, name: str, most: int) -> None:
    """List documents similar to the text in FILE.

    Prints the estimated Jaccard similarity, id, source, path and start of each. All ingested documents are compared,
    dropped ones too. `homegrown sql --help` has the same as an SQL macro.
    """
    from homegrown.corpus import similar as engine
    from homegrown.corpus.encodings import Undecodable, decode
    from homegrown.corpus.text import clean
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    artifact = store.resolve(name)
    ingested = next((one for one in store.inputs(artifact) if one.manifest.stage == "ingest"), None)
    if artifact.manifest.stage != "dedup" or ingested is None:
        raise UserError(f"{name} is not a dedup artifact with its ingest; run the pipeline with --until dedup again.")
    try:
        text = clean(decode(file.read_bytes())[0])
    except Undecodable as error:
        raise UserError(f"{file} is not text: {error}; give a text file.") from error
    matches = engine.similar(
        text,
        store.fetch(artifact, "signatures").path / "signatures",
        store.fetch(ingested, "documents").path / "documents",
        seed=dict(artifact.manifest.settings)["seed"],
        most=most,
    )
    if not matches:
        click.echo("No similar document found.")
        return
    rows = [
        [f"{match.similarity:.2f}", match.id, match.source, f"{match.path}:{match.position}", _start(match.text_start)]
        for match in matches
    ]
    print_table(Table(["jaccard", "id", "source", "path", "text"], rows, align="lllll"))


def _start(text: str) -> str:
    """Return the start of a text on one line."""
    return " ".join(text.split())[:60]
