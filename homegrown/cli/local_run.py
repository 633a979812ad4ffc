"""A flow that runs in this process: its imports, its Prefect server, its display and its interruption."""

import atexit
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from homegrown.cli.live_display import live_display
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.reporting.blocks import Table
    from tasks.stage import Handle

T = TypeVar("T")
Flow = tuple[Sequence[str], Callable[[], T]]
"""The stages that a flow consists of, and the call that runs it."""


def run_flow(store: Store, console: Console, prepare: Callable[[], Flow[T]]) -> T:
    """Run a flow with its stages displayed, and return its result.

    Args:
        store: Store of the run.
        console: Console of the display.
        prepare: Imports the flow and checks its arguments; called before the server starts.
    """
    with prefect_server(store, console, prepare) as ((stages, flow), address):
        console.print(f"Watch it at {address}/runs\n", highlight=False)
        with live_display(console, stages):
            return flow()


@contextmanager
def prefect_server(store: Store, console: Console, prepare: Callable[[], T]) -> Iterator[tuple[T, str]]:
    """Call `prepare`, then have a Prefect server for the block; yield its result and the address of the UI.

    Raises:
        UserError: the run was stopped, or its server died; the message says how to resume.
    """
    # Prefect reads its settings when it is imported. Its log lines would break the display; they go to the UI. What
    # its threads print about a server that does not answer goes nowhere: the run itself reports that.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL"] = "CRITICAL"
    logging.raiseExceptions = False
    with ExitStack() as stack:
        with console.status("starting") as status:
            with _without_collection():
                from flows.local import server, server_owner

                prepared = prepare()
            if not server.answers(server.address()):
                console.print("Starting a Prefect server, which takes 10 s or more; `homegrown up` keeps one running.")
                status.update("waiting for the Prefect server")
            api = stack.enter_context(server.running(server.log_of(store.root / ".state")))
        if owner := server_owner.other_user(api):
            console.print(f"This Prefect server belongs to the user {owner}, who can see the run.", highlight=False)
        with _interruption_reported():
            yield prepared, api.removesuffix("/api")


@contextmanager
def _interruption_reported() -> Iterator[None]:
    """Report a run that was stopped (Ctrl-C, SIGTERM, cancelled in the UI) or lost its server as a UserError."""
    from httpx import TransportError
    from prefect.exceptions import TerminationSignal

    # Prefect passes the signal on to the previous handler; the default one would end the process without a message.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal) as error:
        raise UserError("The run was stopped; run the same command again to resume it.") from error
    except TransportError as error:
        raise UserError(
            "The Prefect server died during the run; finished stages are kept, run the same command again to resume."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Turn off garbage collection during imports: it finds nothing and takes a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or DuckDB prints at the end that all of its types were leaked
        gc.enable()


def show_tuned(console: Console, made: "dict[str, Handle]", table: "Table", stage: str) -> None:
    """Print the table of before and after, the artifacts, and commands for the model of `stage`."""
    from homegrown.reporting.terminal import print_table

    print_table(table)
    console.print()
    for name, handle in made.items():
        console.print(f"  {name:<12} {handle.path}", highlight=False, soft_wrap=True)
    model, page = made[stage].name, list(made.values())[-1].path / "report.html"
    console.print(
        f"\nAnswers side by side: {page}\n[bold]Next:[/bold]\n  homegrown chat {model}\n"
        f"  homegrown export {model} --to gguf --out my-model",
        highlight=False,
        soft_wrap=True,
    )
