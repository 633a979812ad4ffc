"""Prefect's run logs, without the traceback of a mistake that the user can mend."""

import logging

from homegrown.errors import UserError


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return True


_filter = _WithoutTraceback()


def hide_traceback_of_user_errors() -> None:
    """Have the loggers of flow and task runs show a `UserError` as its one sentence."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_filter)  # adding the same filter twice does nothing
