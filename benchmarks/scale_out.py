"""Overhead of a shard on local processes and on a Dask cluster, transfer rates of a remote store, and stages at scale.

    python -m benchmarks.scale_out      # some minutes; --quick for empty shards and the rates only
    python -m benchmarks.scale_out --documents 1e5 1e6 --workers 1 2 --dask 8      # dedup and shard alone
    python -m benchmarks.scale_out --gigabytes 10 --workers 2                      # ingest to pack

The last two keep files and results in `--folder`, and resume.

Everything runs on one machine. For the overhead: 2 processes, 2 Dask workers, an S3 server (moto, one Python process);
the CPU times of the process that runs a stage and of Dask's scheduler show how many workers each can keep busy. For
stages, `peak_gb` is the memory of the driver and its workers without mapped files, `driver_gb` the peak of the driver.
The last line is one JSON object.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import scale_out_stages
from benchmarks.measuring import real_texts, table
from homegrown.cluster.dask import ClusterExecutor, dask_workers
from homegrown.cluster.through_store import ThroughStore
from homegrown.config.compute import ComputeSettings
from homegrown.config.pipelines import load_recipe
from homegrown.corpus.filter import filter_documents
from homegrown.store.artifacts import Store
from homegrown.store.remote import Remote
from homegrown.util.parallel import map_ordered, process_pool

WORKERS = 2
EMPTY = 200  # shards
REAL = 12
ROWS = 300  # documents of a real shard, about 3 KB each
FILE_BYTES = 16_000_000
FILES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="empty shards and the rates only")
    parser.add_argument("--gigabytes", type=float, help="made-up text from ingest to pack")
    parser.add_argument("--documents", type=float, nargs="+", help="made-up documents for dedup and shard")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes")
    parser.add_argument("--dask", type=int, default=0, help="Dask workers that make the same bytes")
    parser.add_argument("--folder", default="scale-out", help="files and results")
    arguments = parser.parse_args()
    if arguments.gigabytes or arguments.documents:
        scale_out_stages.main(arguments)
    else:
        overhead(arguments.quick)


def overhead(quick: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(root / "artifacts")
        documents(store, root)
        settings = load_recipe("medium").filter
        results: dict[str, float] = {}

        def measure(name: str, executor: Executor, out: Path, scheduler: Callable[[], float]) -> None:
            for shards, work in ((EMPTY, empty), (REAL, real))[: 1 if quick else 2]:
                work(executor, out)  # warm-up
                cpu, wall, on_scheduler = time.process_time(), time.perf_counter(), scheduler()
                work(executor, out)
                kind = f"{name}_{work.__name__}"
                results[f"{kind}_ms"] = 1000 * (time.perf_counter() - wall) / shards
                results[f"{kind}_driver_cpu_ms"] = 1000 * (time.process_time() - cpu) / shards
                results[f"{kind}_scheduler_cpu_ms"] = 1000 * (scheduler() - on_scheduler) / shards
                print(
                    kind, {key: round(value, 2) for key, value in results.items() if key.startswith(kind)}, flush=True
                )

        def empty(executor: Executor, out: Path) -> None:
            for _ in map_ordered(executor, abs, range(EMPTY)):
                pass

        count = 0

        def real(executor: Executor, out: Path) -> None:
            nonlocal count
            count += 1
            filter_documents(out / str(count), store.root / "dedup/1-0123456789abcdef", settings, executor=executor)

        out = store.root / "filter" / ".1-0123456789abcdef.partial"
        out.mkdir(parents=True)
        with process_pool(WORKERS) as executor:
            measure("processes", executor, out, lambda: 0.0)
        with s3() as address, dask(root, WORKERS) as scheduler:
            compute = ComputeSettings(executor="dask", address=scheduler, workers=WORKERS)
            remote = Remote(address)
            with dask_workers(compute, store, out) as executor:
                assert isinstance(executor, ClusterExecutor)
                measure("dask", executor, out, lambda: cpu_of_scheduler(executor))
                manifest = store.root / "dedup/1-0123456789abcdef/manifest.json"
                names = [f"dedup/1-0123456789abcdef/{name}" for name in json.loads(manifest.read_text())["files"]]
                remote.upload({name: store.root / name for name in names})
                with ThreadPoolExecutor(16) as transfers:
                    exchange = ThroughStore(remote, store.root, out)
                    through = ClusterExecutor(executor.client, scheduler, WORKERS, exchange, transfers)
                    measure("store", through, out, lambda: cpu_of_scheduler(executor))
            results |= rates(remote, root)
        if not quick:
            results["shard_mb_per_cpu_s"] = shuffling(store, root)
    show(results)


def documents(store: Store, root: Path) -> None:
    """Make an artifact with shards of real documents."""
    from homegrown.corpus.documents import SCHEMA, document_id
    from homegrown.store.manifest import Order
    from homegrown.util.files import write_parquet
    from homegrown.util.progress import Outcome

    texts, name = real_texts(REAL * ROWS)
    print(f"{REAL} shards of {ROWS} {name}, {sum(map(len, texts)) / REAL / 1e6:.1f} MB each")

    def build(out: Path) -> Outcome:
        for number in range(REAL):
            part = texts[number * ROWS : (number + 1) * ROWS]
            columns: list[list[Any]] = [
                [document_id("real", "x", text) for text in part],
                part,
                ["real"] * len(part),
                ["x"] * len(part),
                list(range(1, len(part) + 1)),
                [None] * len(part),
            ]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            write_parquet(out / "documents" / f"part-{number:05d}.parquet", pa.table(arrays, schema=SCHEMA))
        return Outcome(len(texts), len(texts))

    store.make(Order("dedup", "", {}, {}), store.root / "dedup/1-0123456789abcdef", build)


def shuffling(store: Store, root: Path) -> float:
    """Return MB of text per CPU second of the stage `shard`, its start included."""
    from homegrown.corpus.documents import SCHEMA
    from homegrown.corpus.shard import shard

    filtered = store.root / "dedup/1-0123456789abcdef"
    tables = [pq.read_table(part, schema=SCHEMA) for part in sorted(filtered.glob("documents/*.parquet"))]
    size = float(sum(table["text"].nbytes for table in tables)) / 1e6
    before = time.process_time()
    with ThreadPoolExecutor(1) as executor:
        shard(root / "shuffled", filtered, load_recipe("medium").shard, seed=1, executor=executor)
    return size / (time.process_time() - before)


def rates(remote: Remote, root: Path) -> dict[str, float]:
    """Return MB per second to and from the remote, with several files at once."""
    from homegrown.store.digests import sha256

    names = [f"random-{number}" for number in range(FILES)]
    for name in names:
        (root / name).write_bytes(os.urandom(FILE_BYTES))
    digests = {name: sha256(root / name) for name in names}
    size = FILES * FILE_BYTES / 1e6
    start = time.perf_counter()
    remote.upload({name: root / name for name in names})
    middle = time.perf_counter()
    remote.download({name: root / "back" / name for name in names}, digests)
    return {"upload_mb_s": size / (middle - start), "download_mb_s": size / (time.perf_counter() - middle)}


def cpu_of_scheduler(executor: ClusterExecutor) -> float:
    seconds: float = executor.client.run_on_scheduler(time.process_time)
    return seconds


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """Yield the address of a bucket on an S3 server in another process."""
    import s3fs

    with process(sys.executable, "-c", _SERVER) as server:
        assert server.stdout
        endpoint = server.stdout.readline().decode().strip()
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        s3fs.S3FileSystem().mkdir("s3://scale")
        yield "s3://scale"


_SERVER = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
time.sleep(1e6)
"""


@contextlib.contextmanager
def dask_pool(workers: int, out: Path) -> Iterator[Executor]:
    """Yield an executor on Dask workers of this machine for the files of `out`."""
    with tempfile.TemporaryDirectory() as folder, dask(Path(folder), workers) as address:
        compute = ComputeSettings(executor="dask", address=address, workers=workers)
        with dask_workers(compute, Store(out.parent), out) as executor:
            yield executor


@contextlib.contextmanager
def dask(root: Path, workers: int) -> Iterator[str]:
    """Yield the address of a scheduler with workers, each in its own process."""
    file = root / "scheduler.json"
    command = [sys.executable, "-m", "dask"]
    with contextlib.ExitStack() as running:
        arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        running.enter_context(process(*command, "scheduler", *arguments))
        for _ in range(workers):
            arguments = ["--no-dashboard", "--no-nanny", "--nthreads", "1", "--scheduler-file", str(file)]
            running.enter_context(process(*command, "worker", *arguments, "--local-directory", str(root)))
        while not file.exists() or not file.stat().st_size:
            time.sleep(0.1)
        address: str = json.loads(file.read_text())["address"]
        yield address


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    # Workers import homegrown from here, and have one thread, as Dask's own nanny would arrange.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def show(results: dict[str, float]) -> None:
    """Print the results as tables and as JSON."""
    rows = [
        (f"{shard} shard, {name}", *(f"{results[f'{name}_{shard}_{what}']:.1f}" for what in _COLUMNS))
        for shard in ("empty", "real")
        for name in ("processes", "dask", "store")
        if f"{name}_{shard}_ms" in results
    ]
    table("Milliseconds per shard", ("", "wall-clock", "driver, CPU", "scheduler, CPU"), rows)
    print(f"\nS3 server: {results['upload_mb_s']:.0f} MB/s up, {results['download_mb_s']:.0f} MB/s down")
    if "shard_mb_per_cpu_s" in results:
        print(f"Stage shard: {results['shard_mb_per_cpu_s']:.0f} MB of text per CPU second")
    print(json.dumps({name: round(value, 2) for name, value in results.items()}))


_COLUMNS = ("ms", "driver_cpu_ms", "scheduler_cpu_ms")


if __name__ == "__main__":
    main()
