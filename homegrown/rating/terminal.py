"""The rating form in the terminal."""

from collections.abc import Sequence

import click

from homegrown.rating.items import Item
from homegrown.rating.ratings import CRITERIA, HIGHEST, LOWEST, Answers


def ask(items: Sequence[Item], answers: Answers) -> int:
    """Ask for the scores of each unrated item until the end or `q`; return the number of rated items."""
    waiting = [item for item in items if item.id not in answers.rated]
    click.echo(
        f"Scores go from {LOWEST} (bad) to {HIGHEST} (good). Enter skips a criterion, q exits. A rating is saved after "
        "its last criterion."
    )
    for done, item in enumerate(waiting):
        click.echo(f"\n{click.style(f'{done + 1} of {len(waiting)}', bold=True)}")
        click.echo(click.style(item.prompt, dim=True) + (item.text or "(nothing)") + "\n")
        scores = _scores()
        while scores is not None and not any(scores.values()):
            click.echo("Give at least one score, or q to exit.")
            scores = _scores()
        if scores is None:
            return done
        answers.add(item, scores)
    return len(waiting)


def _scores() -> dict[str, int | None] | None:
    """Return a score or None for each criterion; None if the rater exits."""
    scores: dict[str, int | None] = {}
    for name, question in CRITERIA.items():
        try:
            answer = click.prompt(f"{name} ({question})", default="", show_default=False, value_proc=_answer)
        except click.Abort:  # Ctrl-D, Ctrl-C
            click.echo()
            return None
        if answer == "q":
            return None
        scores[name] = int(answer) if answer else None
    return scores


def _answer(text: str) -> str:
    text = text.strip().lower()
    if text not in ("", "q", *map(str, range(LOWEST, HIGHEST + 1))):
        raise click.BadParameter(f"type a number from {LOWEST} to {HIGHEST}, nothing, or q")
    return text
