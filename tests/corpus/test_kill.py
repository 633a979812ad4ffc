"""Stages killed with SIGKILL, at several points, then called again: the same bytes, no finished shard made twice."""

import json
import signal
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path

import pytest

from homegrown.config.corpus import DedupSettings
from homegrown.corpus.dedup import dedup
from homegrown.corpus.ingest import ingest
from tests.corpus.made_up import corpus, digests, files, write_documents

PROGRAM = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from homegrown.corpus import {stage}
from homegrown.config.corpus import DedupSettings, IngestSettings

calls = 0

def progress(*_, **__):
    global calls
    calls += 1
    if calls == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)

with ThreadPoolExecutor(2) as executor:
    {call}
"""


def killed(stage: str, call: str, calls: int) -> None:
    program = PROGRAM.format(stage=stage, call=call, calls=calls)
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


def inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*.parquet") if not path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.parametrize("one_file", [True, False])
def test_ingest_resumes_after_a_kill(tmp_path: Path, executor: Executor, one_file: bool) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    parts = ["\n".join([*(json.dumps({"text": text}) for text in corpus(number)), "broken"]) for number in range(6)]
    for number, part in enumerate(["\n".join(parts)] if one_file else parts):
        (raw / f"{number}.jsonl").write_text(part)
    settings = files(raw, shard_mb=0.05)
    ingest(tmp_path / "complete", settings, executor=executor)
    out = tmp_path / "out"
    call = f"ingest.ingest(Path({str(out)!r}), IngestSettings.model_validate_json({settings.model_dump_json()!r}), "
    killed("ingest", call + "executor=executor, progress=progress)", 4)
    finished = sorted((out / "units" / "raw").glob("*/summary.json"))
    assert 4 <= len(finished) < 12
    before = {path: path.stat().st_ino for path in finished}
    seen: dict[Path, int] = {}
    ingest(out, settings, executor=executor, progress=lambda *_, **__: seen.update(_inodes(before)))
    assert seen == before, "finished units were read again"
    assert digests(out) == digests(tmp_path / "complete")


def _inodes(paths: dict[Path, int]) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in paths if path.exists()}


@pytest.mark.slow
def test_dedup_resumes_after_kills(tmp_path: Path, executor: Executor) -> None:
    write_documents(tmp_path / "in", corpus(8), rows=12)
    dedup(tmp_path / "complete", tmp_path / "in", DedupSettings(), seed=1, memory_gb=0.5, executor=executor)
    out = tmp_path / "out"
    call = f"dedup.dedup(Path({str(out)!r}), Path({str(tmp_path / 'in')!r}), DedupSettings(), "
    before: dict[Path, int] = {}
    for calls in (3, 21, 28):  # while sketching, while linking, while writing
        killed("dedup", call + "seed=1, memory_gb=0.5, executor=executor, progress=progress)", calls)
        there = {
            path: node for path, node in inodes(out).items() if path.parent.name not in ("dropped", "out", "exchange")
        }
        assert before.items() <= there.items(), "finished shards were made again"
        assert there
        before = there
    dedup(out, tmp_path / "in", DedupSettings(), seed=1, memory_gb=0.5, executor=executor)
    assert before.items() <= inodes(out).items(), "finished shards were made again"
    assert digests(out) == digests(tmp_path / "complete")


def test_workers_that_end_while_work_is_cancelled_leave_no_traceback() -> None:
    program = """
import multiprocessing, time
from homegrown.util.parallel import process_pool

with process_pool(1) as pool:
    submitted = [pool.submit(time.sleep, 60) for _ in range(6)]
    while not submitted[0].running():
        time.sleep(0.01)
    for waiting in submitted:
        waiting.cancel()
    for worker in multiprocessing.active_children():
        worker.kill()
    time.sleep(0.5)  # until the pool sees it
    raise SystemExit(3)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (3, "")


def test_ctrl_c_while_a_process_starts_leaves_no_traceback_in_it() -> None:
    program = """
import multiprocessing.util, os, signal, threading, time
from homegrown.util.parallel import process_pool

start = multiprocessing.util.spawnv_passfds

def interrupted(*arguments):
    process = start(*arguments)
    if "--multiprocessing-fork" in arguments[1]:
        os.killpg(0, signal.SIGINT)  # as a terminal does; the worker has not been told its work yet
        time.sleep(0.1)
    return process

multiprocessing.util.spawnv_passfds = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background ignores it
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # another that a signal may reach
with process_pool(2) as pool:
    pool.submit(time.sleep, 60)
"""
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert "EOFError" not in process.stderr and process.stderr.count("Traceback") == 1, process.stderr
    assert process.stderr.rstrip().endswith("KeyboardInterrupt") and process.returncode == -signal.SIGINT
