"""Ingest of damaged files: `python -m benchmarks.corpus_faults [--files N] [--seed N]`.

Makes files of every format that ingest reads, and damages them with a seeded generator: bits flipped, parts cut out,
repeated, moved, zeroed or taken from another file, wrong names. Runs `homegrown run tiny --until ingest` on folders of
them, as a user types it. A file has crashed if its run ends without an artifact or prints a traceback; it is
unaccounted for if it is not in the tables `documents`, `quarantine` or `skipped`. Foreign lines are what the run prints
beside its own lines. The last line is JSON.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measuring import table
from homegrown.store.artifacts import Store
from tests.corpus.samples import PACKED, PAGES, SAMPLES, TABLES, arc

BATCH = 1000
_OWN = ("Watch it at", "ingest", "Error:", "  ", "Next:", "Artifacts", "stage ", "Input", "source ", "damaged ")


def main(files: int, seed: int) -> None:
    """Make and ingest the files in batches; print a table by format, and the last line."""
    crashed: list[str] = []
    lost: list[str] = []
    foreign: Counter[str] = Counter()
    made: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for number, first in enumerate(range(0, files, BATCH)):
            folder = Path(name) / "files"
            folder.mkdir()
            names = write(folder, min(BATCH, files - first), random.Random(f"{seed}-{number}"))
            made += Counter(_format(one) for one in names)
            bad, unaccounted, printed = run(folder, Path(name) / "artifacts", names)
            crashed, lost, foreign = crashed + bad, lost + unaccounted, foreign + printed
            shutil.rmtree(folder)
            shutil.rmtree(Path(name) / "artifacts", ignore_errors=True)
            print(f"{first + len(names):,} files, {len(crashed)} crashed, {len(lost)} unaccounted for", flush=True)
    rows = [
        (one, f"{count:,}", str(_count(crashed, one)), str(_count(lost, one))) for one, count in sorted(made.items())
    ]
    table("damaged files by format", ("format", "files", "crashed", "unaccounted for"), rows)
    for line, count in foreign.most_common(10):
        print(f"  printed {count} times: {line}")
    print(
        json.dumps(
            {
                "files": files,
                "crashed": len(crashed),
                "unaccounted": len(lost),
                "foreign_lines": foreign.total(),
                "seconds": round(time.perf_counter() - start),
            }
        )
    )


def run(folder: Path, artifacts: Path, names: list[str]) -> tuple[list[str], list[str], Counter[str]]:
    """Ingest a folder; return the files that crash a run, those that are in no table, and the foreign lines.

    After a crash the halves of the folder are tried, down to single files.
    """
    source = json.dumps([{"kind": "files", "name": "damaged", "path": str(folder)}])
    command = [sys.executable, "-m", "homegrown.cli.main", "--artifacts", str(artifacts), "run", "tiny"]
    ended = subprocess.run(
        [*command, "--until", "ingest", "--set", f"ingest.sources={source}"],
        capture_output=True,
        text=True,
        check=False,
    )
    printed = (ended.stdout + ended.stderr).splitlines()
    foreign = Counter(line for line in printed if line.strip() and not line.startswith(_OWN))
    no_document = any("no document" in line for line in printed if line.startswith("Error:"))
    if "Traceback" not in ended.stderr and (ended.returncode == 0 or no_document):
        return [], [] if no_document else _unaccounted(artifacts, names), foreign
    if len(names) == 1:
        print(f"{names[0]}: {' '.join(printed[-1:])}", flush=True)
        return names, [], foreign
    crashed: list[str] = []
    lost: list[str] = []
    middle = len(names) // 2
    for half in (names[:middle], names[middle:]):
        part = folder.with_name(f"{folder.name}-{half[0]}")
        part.mkdir()
        for one in half:
            shutil.copyfile(folder / one, part / one)
        shutil.rmtree(artifacts, ignore_errors=True)
        bad, unaccounted, printed_here = run(part, artifacts, half)
        crashed, lost, foreign = crashed + bad, lost + unaccounted, foreign + printed_here
        shutil.rmtree(part)
    return crashed, lost, foreign


def _unaccounted(artifacts: Path, names: list[str]) -> list[str]:
    """Return the files whose names begin no path in the tables of the latest ingest."""
    made = Store(artifacts).resolve("ingest").path
    seen = {
        _file(path)
        for kind in ("documents", "quarantine", "skipped")
        for file in [*made.glob(f"{kind}.parquet"), *made.glob(f"{kind}/*.parquet")]
        for path in pq.read_table(file, columns=["path"])["path"].to_pylist()
    }
    return [name for name in names if name not in seen]


def _file(path: str) -> str:
    """Return the name of the damaged file in a path, which may go on with a member of an archive."""
    return next((part for part in path.split("/") if part.startswith("damaged-")), path)


def _format(name: str) -> str:
    return name.partition(".")[2]


def _count(names: list[str], kind: str) -> int:
    return sum(_format(name) == kind for name in names)


def write(folder: Path, count: int, draw: random.Random) -> list[str]:
    """Write `count` damaged files; return their names."""
    whole = {**SAMPLES, ".arc": arc(PAGES), **{ending: make(PAGES) for ending, make in TABLES.items()}}
    names = []
    for number in range(count):
        ending = draw.choice(list(whole))
        data = _damaged(whole[ending], whole[draw.choice(list(whole))], draw)
        packing = draw.choice(list(PACKED)) if draw.random() < 0.3 else ""
        if packing and not ending.endswith((".zip", ".tgz", ".gz")):
            data, ending = PACKED[packing](data), ending + packing
            if draw.random() < 0.5:
                data = _damaged(data, data, draw)
        names.append(f"damaged-{number:05}{ending}")
        (folder / names[-1]).write_bytes(data)
    return names


def _damaged(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return data after one to four kinds of damage."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        data = draw.choice(_DAMAGES)(data, other, draw)
    return data


def _range(data: bytes, draw: random.Random) -> slice:
    start = draw.randrange(len(data) + 1)
    return slice(start, min(len(data), start + draw.choice((1, 2, 4, 16, 100, 1000, len(data)))))


def _flip(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 10, 100))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _remove(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    part = _range(data, draw)
    return data[: part.start] + data[part.stop :]


def _repeat(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    part = _range(data, draw)
    return data[: part.stop] + data[part] * draw.choice((1, 2, 20)) + data[part.stop :]


def _zero(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    part = _range(data, draw)
    return data[: part.start] + bytes(part.stop - part.start) + data[part.stop :]


def _noise(data: bytes, _other: bytes, draw: random.Random) -> bytes:
    part = _range(data, draw)
    return data[: part.start] + draw.randbytes(part.stop - part.start) + data[part.stop :]


def _insert(data: bytes, other: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + other[_range(other, draw)] + data[place:]


def _other(_data: bytes, other: bytes, _draw: random.Random) -> bytes:
    """Return the content of another format: the name is wrong."""
    return other


_DAMAGES: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    *(_flip, _flip, _cut, _cut, _remove, _repeat, _zero, _noise, _insert, _other),
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    main(options.files, options.seed)
