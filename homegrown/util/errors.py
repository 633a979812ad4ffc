"""Errors that a person, not a programmer, is meant to read."""

import errno
import os


class UserError(Exception):
    """A mistake that the user can mend.

    Its message is one sentence that names the file, line or setting at fault and says what to do;
    the command line prints it without a traceback and exits with a code that is not zero.
    """


def is_disk_full(error: BaseException) -> bool:
    """Say whether a full disk or a used-up quota is behind an error, also where a library has wrapped it."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    if any(os.strerror(number) in str(error) for number in numbers):
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)
