"""Every help text: in one snapshot, `help.txt`, and by the rules of the project's words.

`python -m tests.cli.test_help` writes the snapshot.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from homegrown.cli import COMMANDS
from homegrown.cli.main import cli

SNAPSHOT = Path(__file__).with_name("help.txt")
REGENERATE = "python -m tests.cli.test_help"
MOST_WORDS = 8
_WIDTH = 100  # of the snapshot, whatever the terminal's


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command and of all commands inside it, in the order of the help."""
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from contexts(click.Context(inner, context, name, **inner.context_settings, terminal_width=_WIDTH))


ALL = {
    context.command_path: context
    for context in contexts(click.Context(cli, info_name="homegrown", **cli.context_settings, terminal_width=_WIDTH))
}


def snapshot() -> str:
    """Return the help of every command."""
    return "\n".join(f"$ {path} --help\n{context.get_help()}\n" for path, context in ALL.items())


def words(text: str) -> int:
    """Return the number of words, without a default."""
    return len(re.sub(r"; default.*", "", text).split())


def test_the_help_texts_are_those_of_the_snapshot() -> None:
    assert snapshot() == SNAPSHOT.read_text(encoding="utf-8"), (
        f"A help text is not as in {SNAPSHOT}. If the change is meant, write the snapshot anew: {REGENERATE}"
    )


@pytest.mark.parametrize("path", [path for path in ALL if path != "homegrown"])
def test_a_command_has_a_short_summary(path: str) -> None:
    command = ALL[path].command
    summary = " ".join((command.help or "").split("\n\n")[0].split())
    assert 1 < words(summary) <= MOST_WORDS, f"{path}: {summary!r} must have at most {MOST_WORDS} words"
    assert summary[0].isupper() and summary.endswith(".")
    name = path.removeprefix("homegrown ")
    if name in COMMANDS:
        assert COMMANDS[name].summary == summary, f"set the same summary in homegrown/cli/__init__.py: {summary!r}"


@pytest.mark.parametrize("path", ALL)
def test_an_option_has_a_short_help(path: str) -> None:
    for option in ALL[path].command.params:
        if isinstance(option, click.Option):
            help_text, name = option.help or "", f"{path} {option.opts[0]}"
            assert 1 <= words(help_text) <= MOST_WORDS, f"{name}: {help_text!r} must have at most {MOST_WORDS} words"
            assert help_text.endswith("."), f"{name}: {help_text!r} must end with a period"


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
