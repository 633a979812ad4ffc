"""`homegrown chat`: talk with a model in the terminal."""

import sys
from typing import TYPE_CHECKING, Any

import click

from homegrown.cli.options.model import load, model_folder, model_options, sampling, sampling_options, utf8
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.inference.conversation import Conversation

_HELP = "/reset forgets what was said, /quit or Ctrl-D ends, Ctrl-C stops an answer."


@click.command()
@model_options
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation; else its own.")
@click.option("--max-length", default=512, show_default=True, type=click.IntRange(min=1), help="Most tokens an answer.")
@sampling_options
@click.option("--seed", default=0, show_default=True, help="The same seed and words bring the same answers.")
@click.pass_obj
def chat(
    store: Store,
    /,
    artifact: str | None,
    variant: str | None,
    device: str,
    precision: str | None,
    system: str | None,
    max_length: int,
    seed: int,
    **options: Any,
) -> None:
    """Talk with a model. /reset forgets what was said, /quit or Ctrl-D ends, Ctrl-C stops an answer."""
    chosen = sampling(options)
    model, tokenizer = load(store, artifact, variant, device, precision)

    from homegrown.inference.conversation import Conversation
    from homegrown.tokenizer.system import load_system

    system = load_system(model_folder(store, artifact, variant)) if system is None else system
    conversation = Conversation(model, tokenizer, chosen, system=system, max_new_tokens=max_length, seed=seed)
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives `input` its editing and history)

        click.echo(_HELP, err=True)
    while (line := _line()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            conversation.reset()
        elif line.startswith("/"):
            click.echo(_HELP, err=True)
        elif line.strip():
            _answer(conversation, line)


def _line() -> str | None:
    """Return the next line that is typed, None at the end of the input."""
    while True:
        try:
            return utf8(lambda: input("> " if sys.stdin.isatty() else ""))
        except EOFError:
            return None
        except KeyboardInterrupt:
            click.echo(err=True)


def _answer(conversation: "Conversation", line: str) -> None:
    try:
        answer = conversation.say(line)
    except UserError as error:
        click.echo(f"({error})", err=True)
        return
    if answer.forgotten:
        click.echo(
            f"(The context of {conversation.context} tokens is full: the oldest {answer.forgotten} messages were "
            "left out.)",
            err=True,
        )
    try:
        for text in answer:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        answer.stop()
    click.echo()
    if answer.cut:
        click.echo(f"(Cut at {answer.tokens} tokens.)", err=True)
