"""A flow run in this process: Prefect's settings before it is imported, and how an interruption is reported."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


def prepare(store: Store) -> None:
    """Point Prefect at the store, before it is imported: it reads its settings then.

    Its lines would tear the live display; they go to the UI.
    """
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"


@contextmanager
def interruption_reported() -> Iterator[None]:
    """Say what remains when the run was stopped (Ctrl-C, SIGTERM, cancelled in the UI) or lost its server."""
    from httpx import TransportError
    from prefect.exceptions import TerminationSignal

    # Prefect hands the signal on to who listened before; by default that would end the process without a word.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal) as error:
        raise UserError("The run was stopped; the same command goes on from where it was.") from error
    except TransportError as error:
        raise UserError(
            "The Prefect server went away during the run; what is made is kept, and the same command goes on."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage among what is imported: there is none, and looking takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
