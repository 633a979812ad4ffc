"""The command line of `homegrown`, which imports each command when it is called."""

import importlib
import logging
from pathlib import Path

import click

from homegrown.cli import COMMANDS
from homegrown.util.errors import UserError


class _Group(click.Group):
    """A group of lazy commands; a UserError, or a store that cannot be written, becomes a message and exit code 1."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in sorted(COMMANDS.items())])

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            from homegrown.store.artifacts import Store, explained

            if isinstance(context.obj, Store) and (message := explained(error, context.obj.root)):
                raise click.ClickException(str(message)) from error
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--artifacts",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    default="artifacts",
    envvar="HOMEGROWN_ARTIFACTS",
    show_default=True,
    help="Folder of the artifact store.",
)
@click.version_option(package_name="homegrown")
@click.pass_context
def cli(context: click.Context, root: Path) -> None:
    """Train a language model on your own text and machine."""
    from homegrown.store.artifacts import Store
    from homegrown.store.remote import Remote

    # The project's own log lines only: those of libraries would break the live display.
    for name in ("homegrown", "tasks", "flows"):
        logging.getLogger(name).addHandler(logging.StreamHandler())
    context.obj = Store(root, Remote.of_environment())


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
