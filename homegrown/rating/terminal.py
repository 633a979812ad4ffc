"""The rating form in the terminal."""

from collections.abc import Sequence

import click

from homegrown.rating.answers import CRITERIA, HIGHEST, LOWEST, Answers
from homegrown.rating.items import Item


def ask(items: Sequence[Item], answers: Answers) -> int:
    """Ask for the scores of each item that the rater has not answered, until all are or `q`; return how many were."""
    waiting = [item for item in items if item.id not in answers.rated]
    click.echo(
        f"{LOWEST} (bad) to {HIGHEST} (good); Enter leaves a criterion open, q ends. A text is kept once all its "
        "criteria were asked."
    )
    for done, item in enumerate(waiting):
        click.echo(f"\n{click.style(f'Text {done + 1} of {len(waiting)}', bold=True)}")
        click.echo(click.style(item.prompt, dim=True) + (item.text or "(nothing)") + "\n")
        scores = _scores()
        while scores is not None and not any(scores.values()):
            click.echo("Give at least one score, or q to end.")
            scores = _scores()
        if scores is None:
            return done
        answers.add(item, scores)
    return len(waiting)


def _scores() -> dict[str, int | None] | None:
    """Return a score or None for each criterion; None where the rater wants to end."""
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
