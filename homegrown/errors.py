"""The one exception that a person, not a programmer, is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend.

    Its message is one sentence that names the file, line or setting at fault and says what to do;
    the command line prints it without a traceback and exits with a code that is not zero.
    """
