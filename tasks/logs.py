"""Prefect's run logs, without the traceback of a mistake that the user can mend, and without talk of our hooks."""

import logging

from homegrown.util.errors import UserError


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return True


class _WithoutHooks(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not str(record.msg).startswith(("Running hook ", "Hook "))


_filters = (_WithoutTraceback(), _WithoutHooks())


def quieten() -> None:
    """Have the loggers of flow and task runs show a `UserError` as its one sentence, and hooks only where they fail."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        for one in _filters:
            logging.getLogger(name).addFilter(one)  # adding the same filter twice does nothing
