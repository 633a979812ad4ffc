"""Logs of the Prefect server and the workers: their rotation, and the errors that repeat in them."""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPEATED = 3
"""Number of equal errors from which they are reported."""

_READ_BYTES = 4_000_000  # the end of a log that grows for months
_ROTATE_BYTES = 20_000_000
_ROTATED = 3
_WORDS = 200
_RECORD = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| (?P<level>[A-Z]+) *\| (?P<message>.*)")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:: .*)?")  # the last line of a traceback
_CHANGING = re.compile(r"\[ *[\d.]+ *\w+\]|0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


@dataclass(frozen=True)
class RepeatedError:
    """An error of the server, its number of occurrences and the log that has them."""

    message: str
    count: int
    log: Path

    def __str__(self) -> str:
        return f"The Prefect server repeats an error ({self.count} times in {self.log}): {self.message}"


def repeated_errors(log: Path) -> list[RepeatedError]:
    """Return the errors that a server's log has at least `REPEATED` times, the most frequent first.

    Errors are equal if they differ in numbers and identifiers only. The message of an error with a traceback is the
    exception.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    counts: dict[str, int] = {}
    last: dict[str, str] = {}
    for message in _errors(lines):
        kind = _CHANGING.sub("#", message)
        counts[kind] = counts.get(kind, 0) + 1
        last[kind] = message
    repeated = sorted((kind for kind, count in counts.items() if count >= REPEATED), key=lambda kind: -counts[kind])
    return [RepeatedError(last[kind], counts[kind], log) for kind in repeated]


def start_anew(log: Path) -> None:
    """Rename the log of an earlier server, so that a log is about one server."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.old"))


def rotate(log: Path) -> None:
    """Move the content of a large log to `<log>.1`, of which three are kept, while a process goes on writing to it."""
    try:
        if log.stat().st_size < _ROTATE_BYTES:
            return
        for number in range(_ROTATED - 1, 0, -1):
            with suppress(FileNotFoundError):
                _rotated(log, number).replace(_rotated(log, number + 1))
        shutil.copyfile(log, _rotated(log, 1))
        os.truncate(log, 0)  # processes append, so they write on at the start
    except OSError:  # of another user, or a full disk: tried again later
        return


def _rotated(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


def _errors(lines: list[str]) -> list[str]:
    """Return the message of each error: what was logged, or the exception of its traceback."""
    found: list[str] = []
    in_error = False
    for line in lines:
        if record := _RECORD.match(line):
            in_error = record["level"] in ("ERROR", "CRITICAL")
            if in_error:
                found.append(record["message"][:_WORDS])
        elif in_error and _RAISED.fullmatch(line) and not line.startswith("Traceback"):
            found[-1] = line[:_WORDS]
    return found
