"""Requests that the server refuses."""

from typing import Literal

from homegrown.util.errors import UserError

Reason = Literal["unknown_model", "invalid", "too_long", "busy", "loading", "failed", "stopping"]


class Refused(UserError):
    """A refused request: the error message, the reason, and the field at fault, if it is a single one."""

    def __init__(self, message: str, reason: Reason, field: str | None = None):
        super().__init__(message)
        self.reason, self.field = reason, field
