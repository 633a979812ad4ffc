"""Prefect's run logs, without the traceback of a UserError and without lines about hooks."""

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
    """Make the loggers of flow and task runs show only the message of a `UserError`, and hooks only if they fail."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        for one in _filters:
            logging.getLogger(name).addFilter(one)  # adding a filter twice has no effect
