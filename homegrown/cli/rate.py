"""`homegrown rate`: blind ratings of completions by people."""

import getpass
from typing import TYPE_CHECKING

import click

from homegrown.reporting.numbers import quantity
from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homegrown.rating.items import Item
    from homegrown.rating.ratings import Answers

_DOCUMENTS = 8  # held-out documents or questions of each evaluation
_HOST = "127.0.0.1"


@click.command()
@click.argument("names", nargs=-1, metavar="[STAGE[@VERSION]]...")
@click.option("--rater", default=getpass.getuser, show_default="your login name", help="Name of the rater.")
@click.option("--terminal", is_flag=True, help="Ask in the terminal instead of a page.")
@click.pass_obj
def rate(store: Store, names: tuple[str, ...], rater: str, terminal: bool) -> None:
    """Rate completions of models, blind and shuffled.

    Completions and references of 8 documents come from the latest evaluation or from the ones you name: evaluate@3, or
    finetune@1 for answers to held-out questions. Several are mixed. `homegrown report ratings` shows the result.
    """
    from homegrown.rating.items import items_of, shuffled, with_completions
    from homegrown.rating.ratings import Answers
    from homegrown.store.artifacts import RATINGS

    found = [with_completions(store, name) for name in names or ("evaluate",)]
    answers = Answers(store.root / RATINGS, rater)
    items = shuffled(items_of(found, _DOCUMENTS), rater)
    if not any(item.id not in answers.rated for item in items):
        click.echo(f"{rater} has rated all {len(items)} completions; `homegrown report ratings` shows the result.")
    elif terminal:
        from homegrown.rating.terminal import ask

        click.echo(f"Ratings saved: {ask(items, answers)}.")
    else:
        _serve(items, answers)


def _serve(items: "Sequence[Item]", answers: "Answers") -> None:
    import uvicorn

    from homegrown.rating.page import application
    from homegrown.util.guard import allowed_hosts, listen

    listening = listen(_HOST, 0)  # any free port
    address = f"http://{_HOST}:{listening.getsockname()[1]}"
    click.echo(f"{quantity(len(items), 'completions')} at {address} (Ctrl-C exits; ratings are saved at once)")
    with listening:
        config = uvicorn.Config(application(items, answers, allowed_hosts(_HOST)), log_level="warning")
        uvicorn.Server(config).run([listening])
