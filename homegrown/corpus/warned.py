"""Warnings of libraries while a unit of ingest is read: counted, not printed."""

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("trafilatura", "htmldate", "courlan", "pypdf", "pylatexenc", "mammoth", "py.warnings")
_NOTHING = logging.NullHandler()  # without any handler Python prints


class Warned(logging.Handler):
    """Counts the messages of the thread that made it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a message."""
        self.count += record.thread == self._thread


@contextmanager
def counted() -> Iterator[Warned]:
    """Count the warnings of libraries in the block; they are not printed in this process from then on."""
    if multiprocessing.parent_process() is not None:  # a worker
        logging.captureWarnings(True)
    counter = Warned()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(_NOTHING)
        logger.addHandler(counter)
    try:
        yield counter
    finally:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(counter)
