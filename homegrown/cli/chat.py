"""`homegrown chat`: chat with a model in the terminal."""

import sys
from typing import TYPE_CHECKING, Any

import click

from homegrown.cli.options.model import load, max_tokens_option, model_options, sampling, sampling_options, utf8
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.inference.conversation import Conversation

_HELP = "/reset starts a new conversation, /quit or Ctrl-D exits, Ctrl-C stops an answer."


@click.command(epilog=_HELP)
@model_options
@click.option("--system", metavar="TEXT", help="System prompt; default is the model's own.")
@max_tokens_option
@sampling_options
@click.option("--seed", default=0, show_default=True, help="Random seed.")
@click.pass_obj
def chat(
    store: Store,
    /,
    name: str | None,
    precision: str | None,
    system: str | None,
    max_tokens: int,
    seed: int,
    **options: Any,
) -> None:
    """Chat with a model in the terminal.

    MODEL: pretrain@3, quantize@2:int8 or starter; by default the latest of pretrain.
    """
    parameters = sampling(options)
    model, tokenizer, folder = load(store, name, precision)

    from homegrown.inference.conversation import Conversation
    from homegrown.tokenizer.chat import load_chat

    chat_format = load_chat(folder, tokenizer)
    system = chat_format.system if system is None else system
    conversation = Conversation(model, chat_format, parameters, system=system, max_tokens=max_tokens, seed=seed)
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives `input` line editing and history)

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
    """Return the next line of the input, None at its end."""
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
    if answer.dropped:
        click.echo(
            f"(The context of {conversation.context} tokens is full: the oldest {answer.dropped} messages were "
            "dropped.)",
            err=True,
        )
    try:
        for text in answer:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        answer.stop()
    click.echo()
    if answer.finish_reason == "length":
        full = answer.completion_tokens < conversation.max_tokens
        why = f"The context of {conversation.context} tokens is full" if full else "Maximum length reached"
        click.echo(f"({why}: {answer.completion_tokens} tokens.)", err=True)
