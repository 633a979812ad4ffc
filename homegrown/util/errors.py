"""Errors for people who run homegrown."""

import errno
import os


class UserError(Exception):
    """A mistake that the user can fix.

    Its message names the file, line or setting and says what to do. The command line prints it without a traceback and
    exits with a nonzero code.
    """


class SourceChanged(UserError):
    """A file of a source changed during reading; reading it again can succeed."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether a full disk or an exceeded quota caused an error, even if a library wraps it."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    if any(os.strerror(number) in str(error) for number in numbers):
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)
