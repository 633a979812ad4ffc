"""Names of the users of this machine."""

import os
import pwd


def user_name(uid: int | None = None) -> str:
    """Return the name of a user, by default of the one whose process this is; its number if it has no name."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in a container
        return str(uid)
