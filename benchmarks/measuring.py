"""Shared by the benchmarks: CPU seconds and peak memory of a call, real documents, printed and committed tables."""

import csv
import gzip
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from homegrown.util.devices import resident_peak

Result = TypeVar("Result")

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"


class Measured(NamedTuple):
    """The result of a call, CPU seconds of all its threads and children, and peak resident memory."""

    result: Any
    cpu_seconds: float
    wall_seconds: float
    peak_gb: float


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, function, arguments).result()


def _measure(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Measured:
    before, start = cpu_seconds(), time.perf_counter()
    result = function(*arguments)
    return Measured(result, cpu_seconds() - before, time.perf_counter() - start, resident_peak() / 1e9)


def cpu_seconds() -> float:
    """Return the CPU time, user and system, of this process and of its children that have exited."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def rate(function: Callable[[list[str]], object], texts: list[str]) -> float:
    """Return the `texts` that a function processes per CPU second: the better of two calls, after a warm-up."""
    function(texts[:2])
    seconds = []
    for _ in range(2):
        before = cpu_seconds()
        function(texts)
        seconds.append(cpu_seconds() - before)
    return len(texts) / min(seconds)


def real_texts(count: int) -> tuple[list[str], str]:
    """Return `count` real texts of about 3 KB, and their kind: articles, else documentation."""
    if CORPORA.is_dir():
        with gzip.open(CORPORA / "wikipedia-2015.jsonl.gz", "rt") as file:
            texts: Iterable[str] = [json.loads(line)["text"] for line in file]
        name = "passages of Wikipedia"
    else:
        texts = _documentation()
        name = f"installed documentation ({CORPORA} is missing)"
    pieces = _pieces(texts)
    return [text for text, _ in zip(pieces, range(count), strict=False)], name


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yield pieces of at least 3,000 characters, each of consecutive lines of the texts."""
    lines: list[str] = []
    size = 0
    for text in texts:
        for line in text.splitlines():
            lines.append(line)
            size += len(line) + 1
            if size >= 3000:
                yield "\n".join(lines)
                lines, size = [], 0


def _documentation() -> Iterator[str]:
    from homegrown.corpus import packages
    from homegrown.corpus.records import Document

    for record in packages.read(tuple(packages.modules())):
        if isinstance(record, Document):
            yield record.text


def table(title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, its first column left-aligned, the others right-aligned."""
    every = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    print(f"\n{title}")
    for row in every:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a committed table in CSV; none if it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, columns: list[str], row: dict[str, str]) -> None:
    """Add a row to a committed table in CSV, with its header if it is the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
