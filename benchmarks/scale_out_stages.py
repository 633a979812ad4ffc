"""Stages of the corpus at the size of more documents than memory: time, peak memory, memory of the driver.

Called by `benchmarks.scale_out`. Each stage runs in a process of its own, the driver, with a pool of workers. Results
are kept, so a repeated call resumes; files are deleted when no later stage reads them.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import cpu_seconds, real_texts, table
from homegrown.config.pipelines import load_recipe
from homegrown.util.devices import resident_peak

_PART = 40_000  # documents of a shard that is made up
_SEED = 20
_SAMPLE = 0.2  # seconds
_CHANGED = 0.02  # of the words of an edited copy
_COPIES = 0.3  # of the documents
Results = dict[str, Any]


def main(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    if arguments.gigabytes:
        stages = chain(folder / f"{arguments.gigabytes:g}gb", arguments.gigabytes, max(arguments.workers))
        results |= {"stages": stages, "peak_gb": max(one.get("peak_gb", 0.0) for one in stages)}
    if arguments.documents:
        results |= alone(folder, [int(count) for count in arguments.documents], arguments.workers, arguments.dask)
    print(json.dumps(results))


# --- dedup and shard alone --------------------------------------------------------------------------------------------


def alone(folder: Path, counts: list[int], workers: list[int], dask: int) -> Results:
    """Measure dedup and shard for some numbers of made-up documents."""
    found: dict[str, dict[str, Results]] = {"dedup": {}, "shard": {}}
    rows = []
    for count in counts:
        documents = folder / f"{count}" / "made-up"
        kept(documents.with_suffix(".json"), lambda: made_up(documents, count))  # noqa: B023
        check_columns(documents)
        for stage in found:
            for many in (*workers, *([-dask] if dask else [])):
                out = folder / f"{count}" / f"{stage}-{many}"
                one = kept(out.with_suffix(".json"), lambda: run(stage, documents, out, many))  # noqa: B023
                shutil.rmtree(out, ignore_errors=True)
                found[stage][f"{count:.0e} {many}"] = one
                who = f"{many} processes" if many > 0 else f"{-many} Dask workers"
                rows.append(
                    (stage, f"{count:,}", who, *(f"{one[name]:.2f}" for name in ("seconds", "peak_gb", "driver_gb")))
                )
    table("Stages alone", ("stage", "documents", "workers", "seconds", "peak GB", "driver GB"), rows)
    summary: Results = {"runs": found}
    for stage, ones in found.items():
        first, last = (ones[f"{count:.0e} {max(workers)}"] for count in (min(counts), max(counts)))
        if len(counts) > 1:
            grown = 1e9 * (last["driver_gb"] - first["driver_gb"]) / (max(counts) - min(counts))
            summary[f"{stage}_driver_bytes_per_document"] = round(grown, 2)
            summary[f"{stage}_growth"] = round(last["seconds"] / first["seconds"], 2)
        summary[f"{stage}_peak_gb"] = last["peak_gb"]
        if len(workers) > 1:
            fewest, most = (ones[f"{min(counts):.0e} {many}"]["seconds"] for many in (min(workers), max(workers)))
            summary[f"{stage}_workers_speedup"] = round(fewest / most, 2)
        digests = {one["digest"] for name, one in ones.items() if name.startswith(f"{min(counts):.0e} ")}
        summary[f"{stage}_same_bytes"] = len(digests) == 1
    return summary


def check_columns(folder: Path) -> None:
    """End the program with a message if an earlier version made the documents, without a column that they need."""
    from homegrown.corpus.documents import SCHEMA

    for part in sorted(folder.glob("documents/*.parquet"))[:1]:
        if missing := set(SCHEMA.names) - set(pq.read_schema(part).names):
            sys.exit(f"{folder} lacks the column {min(missing)}: an earlier version made it; delete {folder.parent}.")


def made_up(folder: Path, count: int) -> Results:
    """Write documents of 60 to 160 words, a third of them edited copies of others, in shards."""
    from homegrown.corpus.documents import SCHEMA
    from homegrown.util.files import write_parquet

    draw = np.random.default_rng(_SEED)
    vocabulary = draw.integers(97, 123, (50_000, 7), np.uint8)
    vocabulary[:, 6] = 32
    parts = -(-count // _PART)
    for number in range(parts):
        size = min(_PART, count - number * _PART)
        words, ends = originals(number)
        other, other_ends = originals(number * 7919 % parts)
        edit = np.random.default_rng([_SEED, number, 1])
        texts = []
        for row, copied in enumerate((edit.random(size) < _COPIES).tolist()):
            if copied:
                own = other[other_ends[-2 - row] : other_ends[-1 - row]].copy()
                changed = edit.random(len(own)) < _CHANGED * edit.integers(0, 4)
                own[changed] = edit.integers(0, len(vocabulary), int(changed.sum()))
            else:
                own = words[ends[row] : ends[row + 1]]
            texts.append(vocabulary[own].tobytes()[:-1])
        ids = [sha256(f"{number} {row}".encode()).hexdigest()[:32] for row in range(size)]
        places = [["made-up"] * size, ["x"] * size, range(number * _PART, number * _PART + size)]
        columns = [ids, pa.array(texts, pa.binary()).cast(pa.string()), *places, [None] * size]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        write_parquet(folder / "documents" / f"part-{number:05d}.parquet", pa.table(arrays, schema=SCHEMA))
    return {}


def originals(number: int) -> tuple[Any, Any]:
    """Return the words of a shard's documents, as numbers, and where each document starts."""
    draw = np.random.default_rng([_SEED, number])
    ends = np.concatenate([[0], np.cumsum(draw.integers(60, 161, _PART))])
    return draw.integers(0, 50_000, ends[-1], np.uint16), ends


# --- ingest to pack ---------------------------------------------------------------------------------------------------

_CHAIN = ("ingest", "dedup", "filter", "shard", "tokenizer", "pack")


def chain(folder: Path, gigabytes: float, workers: int) -> list[Results]:
    """Measure all stages of the corpus on text made of sentences of real documents."""
    raw = folder / "raw"
    made = kept(folder / "raw.json", lambda: recombined(raw, gigabytes))
    before, rows = raw, [{"stage": "raw", **made}]
    for stage in _CHAIN:
        out = folder / stage
        rows.append({"stage": stage, **kept(folder / f"{stage}.json", lambda: run(stage, before, out, workers))})  # noqa: B023
        if stage != "tokenizer":
            shutil.rmtree(before, ignore_errors=True)  # the next stage reads this one's files, or resumes after it
            before = out
    cells = [
        (row["stage"], *(f"{row[name]:.2f}" for name in ("seconds", "cpu", "peak_gb", "driver_gb"))) for row in rows[1:]
    ]
    table("Ingest to pack", ("stage", "seconds", "CPU seconds", "peak GB", "driver GB"), cells)
    return rows


def recombined(folder: Path, gigabytes: float) -> Results:
    """Write JSONL files of documents of about 3 KB, each of sentences drawn from real ones."""
    texts, name = real_texts(20_000)
    sentences = [part for text in texts for part in text.split(". ") if len(part) > 20]
    lengths = np.array([len(part) for part in sentences])
    draw = np.random.default_rng(_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    size = documents = 0
    for number in range(max(2, round(gigabytes * 8))):
        with (folder / f"{number:04d}.jsonl").open("w") as file:
            own = 0
            while own < gigabytes * 1e9 / max(2, round(gigabytes * 8)):
                chosen = draw.integers(0, len(sentences), 2 + round(3000 / lengths.mean()))
                text = ". ".join(sentences[place] for place in chosen.tolist())
                own += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                documents += 1
            size += own
    return {"documents": documents, "characters": size, "of": name}


# --- one stage --------------------------------------------------------------------------------------------------------


def kept(path: Path, make: Callable[[], Results]) -> Results:
    """Return the result in a file, made by an earlier call or now."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made))
        print(path.stem, made, flush=True)
    found: Results = json.loads(path.read_text())
    return found


def run(stage: str, before: Path, out: Path, workers: int) -> Results:
    """Run a stage in a new process and sample the memory of the process and its children."""
    shutil.rmtree(out, ignore_errors=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        driver = pool.submit(os.getpid).result()
        peak, stopped = [0], threading.Event()

        def sample() -> None:
            while not stopped.wait(_SAMPLE):
                peak[0] = max(peak[0], sum(anonymous(pid) for pid in tree(driver)))

        watching = threading.Thread(target=sample)
        watching.start()
        try:
            measured: Results = pool.submit(_stage, stage, before, out, workers).result()
        finally:
            stopped.set()
            watching.join()
    return measured | {"peak_gb": round(peak[0] / 1e9, 3), "digest": digest(out)}


def _stage(stage: str, before: Path, out: Path, workers: int) -> Results:
    recipe = load_recipe("medium", ["dedup.paragraphs=null"])
    base, cpu = resident_peak(), cpu_seconds()
    with executor_of(workers, out) as pool:
        pool.submit(int).result()
        start = time.perf_counter()
        outcome = _call(stage, recipe, before, out, pool)
        seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "cpu": round(cpu_seconds() - cpu, 2),
        "driver_gb": round(resident_peak() / 1e9, 4),
        "driver_start_gb": round(base / 1e9, 4),
        "rows": [outcome.rows_in, outcome.rows_out],
    }


def executor_of(workers: int, out: Path) -> AbstractContextManager[Executor]:
    """Return a pool of processes, or of Dask workers on loopback for a negative number."""
    from homegrown.util.parallel import process_pool

    if workers > 0:
        return process_pool(workers)
    from benchmarks.scale_out import dask_pool

    return dask_pool(-workers, out)


def _call(stage: str, recipe: Any, before: Path, out: Path, pool: Executor) -> Any:
    from homegrown.config.corpus import FilesSource
    from homegrown.corpus.dedup import dedup
    from homegrown.corpus.filter import filter_documents
    from homegrown.corpus.ingest import ingest
    from homegrown.corpus.shard import shard
    from homegrown.data.packing import pack
    from homegrown.tokenizer.train import train_tokenizer

    memory = recipe.compute.memory_gb
    if stage == "ingest":
        source = FilesSource(kind="files", name="made-up", path=str(before))
        return ingest(out, recipe.ingest.model_copy(update={"sources": [source]}), executor=pool)
    if stage == "dedup":
        return dedup(out, before, recipe.dedup, seed=1, memory_gb=memory, executor=pool)
    if stage == "filter":
        return filter_documents(out, before, recipe.filter, executor=pool)
    if stage == "shard":
        return shard(out, before, recipe.shard, seed=1, executor=pool)
    if stage == "tokenizer":
        return train_tokenizer(out, before, recipe.tokenizer)
    return pack(out, before, before.parent / "tokenizer", recipe.pack, executor=pool, context=recipe.rows.context)


def tree(root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield root
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def anonymous(pid: int) -> int:
    """Return a process's own memory in bytes, without mapped files, which the system can drop."""
    try:
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0])
    except (OSError, IndexError):
        return 0


def digest(folder: Path) -> str:
    """Return one SHA-256 of all files of a folder and their names."""
    found = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(folder)} {sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
