"""`homegrown rate`: blind ratings of completions by people."""

import getpass
from typing import TYPE_CHECKING

import click

from homegrown.reporting.numbers import quantity
from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homegrown.rating.answers import Answers
    from homegrown.rating.items import Item


@click.command()
@click.argument("names", nargs=-1, metavar="[STAGE[@VERSION]]...")
@click.option("--rater", default=getpass.getuser, show_default="your login name", help="Name of the rater.")
@click.option(
    "--documents",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Held-out documents or questions per model.",
)
@click.option("--terminal", is_flag=True, help="Ask in the terminal instead of a page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", default=8800, show_default=True, type=click.IntRange(1, 65535), help="Port of the page.")
@click.pass_obj
def rate(
    store: Store, names: tuple[str, ...], rater: str, documents: int, terminal: bool, host: str, port: int
) -> None:
    """Rate completions of models, blind and shuffled.

    Completions and references come from the latest evaluation or from the ones you name: evaluate@3, or finetune@1 for
    answers to held-out questions. Several are mixed. `homegrown report ratings` shows the result.
    """
    from homegrown.rating.answers import Answers
    from homegrown.rating.items import items_of, shuffled, with_completions
    from homegrown.store.artifacts import RATINGS

    found = [with_completions(store, name) for name in names or ("evaluate",)]
    answers = Answers(store.root / RATINGS, rater)
    items = shuffled(items_of(found, documents), rater)
    if not any(item.id not in answers.rated for item in items):
        click.echo(f"{rater} has rated all {len(items)} completions; `homegrown report ratings` shows the result.")
    elif terminal:
        from homegrown.rating.terminal import ask

        click.echo(f"Ratings saved: {ask(items, answers)}.")
    else:
        _serve(items, answers, host, port)


def _serve(items: "Sequence[Item]", answers: "Answers", host: str, port: int) -> None:
    import uvicorn

    from homegrown.rating.page import application
    from homegrown.util.guard import allowed_hosts, listen

    listening = listen(host, port)
    click.echo(
        f"{quantity(len(items), 'completions')} at http://{host}:{port} (Ctrl-C exits; ratings are saved at once)"
    )
    with listening:
        config = uvicorn.Config(application(items, answers, allowed_hosts(host)), log_level="warning")
        uvicorn.Server(config).run([listening])
