"""What a user gives `homegrown run auto`: a time, a size or a number of tokens, as texts such as 45m, 30M and 2.5B."""

import math
import re
import shlex
from dataclasses import dataclass

from homegrown.util.errors import UserError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = r"(?:s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])"
"""Also as words: 3 hours, 90 sec."""
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
"""Of a whole number, with or without commas after thousands: 1,5 is not 15."""
_THOUSANDS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Budget:
    """What the user gives: seconds of training, parameters, tokens; at least one, not seconds and tokens both."""

    seconds: float | None = None
    parameters: float | None = None
    tokens: float | None = None

    @classmethod
    def of(cls, time: str | None, size: str | None, tokens: str | None) -> "Budget":
        """Return the budget of texts such as 45m, 1h30m; 30M; 2.5B.

        Raises:
            UserError: one cannot be read, or the combination is not a budget.
        """
        if time is not None and tokens is not None:
            raise UserError(f"--time {time} and --tokens {tokens} contradict each other; leave one of them out.")
        if time is None and size is None and tokens is None:
            raise UserError("The pipeline auto needs a budget; set --time (45m), --size (30M) or --tokens (100M).")
        return cls(
            None if time is None else seconds_of(time),
            None if size is None else _number("--size", size),
            None if tokens is None else _number("--tokens", tokens),
        )


def seconds_of(time: str) -> float:
    """Return the seconds of a --time such as 90s, 45m or 1h30m; raise UserError if it is none."""
    parts = re.fullmatch(rf"(?:\d+(?:\.\d+)?\s*{_UNITS}\s*)+", time.strip().lower())
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", parts[0]) if parts else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in pairs)
    if not seconds:
        raise UserError(f"--time {shlex.quote(time)} is not a duration; write 90s, 45m, 1h30m or 2d.")
    return seconds


def _number(option: str, value: str) -> float:
    found = re.fullmatch(rf"({_DIGITS}(?:\.\d+)?(?:e\+?\d+)?)\s*([kmbt]?)", value.strip().lower())
    number = float(found[1].replace(",", "")) * _THOUSANDS[found[2]] if found else 0.0
    if not 1 <= number < math.inf:
        raise UserError(f"{option} {shlex.quote(value)} is not a number; write 500k, 30M or 1.5B.")
    return number
