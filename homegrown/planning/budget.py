"""What a user gives `homegrown run auto`: a time, a size or a number of tokens, as texts such as 45m, 30M and 2.5B."""

import re
from dataclasses import dataclass

from homegrown.util.errors import UserError

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
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
        if time and tokens:
            raise UserError(f"--time {time} and --tokens {tokens} contradict each other; leave one of them out.")
        if not (time or size or tokens):
            raise UserError("The pipeline auto needs a budget; set --time (45m), --size (30M) or --tokens (100M).")
        return cls(
            _seconds(time) if time else None,
            _number("--size", size) if size else None,
            _number("--tokens", tokens) if tokens else None,
        )


def _seconds(time: str) -> float:
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?\s*(?:s|min|m|h|d)\s*)+", time.strip().lower())
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", parts[0]) if parts else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in pairs)
    if not seconds:
        raise UserError(f"--time {time} is not a duration; write 90s, 45m, 1h30m or 2d.")
    return seconds


def _number(option: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", value.strip().lower().replace(",", ""))
    number = float(found[1]) * _THOUSANDS[found[2]] if found else 0.0
    if not number:
        raise UserError(f"{option} {value} is not a number; write 500k, 30M or 1.5B.")
    return number
