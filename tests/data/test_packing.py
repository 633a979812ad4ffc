"""Packing compared with a plain loop over `tokenizers`, with several workers, and after a kill."""

import hashlib
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.config.tokens import PackSettings
from homegrown.data.index import read_index, token_type
from homegrown.data.packing import pack
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from homegrown.util.parallel import process_pool
from tests.tokenizer.texts import make_texts, split_texts, write_shard


@pytest.fixture(scope="module")
def executor() -> Executor:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_document_is_between_its_special_tokens(
    shards: Path, tokenizer_folder: Path, packed: Path, split: str
) -> None:
    tokenizer = load(tokenizer_folder)
    texts = split_texts(shards, split)
    expected = [[0, *tokenizer.encode(text).ids, 2] for text in texts]
    files = read_index(packed).splits[split]
    tokens, starts, before = [], [], 0
    for file in files:
        shard = np.fromfile(packed / file.tokens_file, dtype="<u2")
        begins = np.load(packed / file.documents_file)
        assert begins.dtype == np.int64
        assert (len(shard), len(begins)) == (file.tokens, file.documents)
        tokens += shard.tolist()
        starts += (begins + before).tolist()
        before += len(shard)
    assert tokens == [number for document in expected for number in document]
    assert starts == np.cumsum([0, *(len(document) for document in expected[:-1])]).tolist()
    assert sum(file.bytes for file in files) == sum(len(text.encode()) for text in texts)


def test_a_file_is_full_at_shard_tokens_and_ends_with_a_document(packed: Path) -> None:
    files = read_index(packed).splits["train"]
    assert len(files) > 3
    for file in files:
        last = np.load(packed / file.documents_file)[-1]
        assert last < 1000
        assert np.fromfile(packed / file.tokens_file, dtype="<u2")[-1] == 2


@pytest.mark.slow
def test_the_same_bytes_with_two_processes(shards: Path, tokenizer_folder: Path, packed: Path, tmp_path: Path) -> None:
    with process_pool(2) as executor:
        pack(tmp_path, shards, tokenizer_folder, PackSettings(), shard_tokens=1000, executor=executor)
    assert digests(tmp_path) == digests(packed)


KILLED = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from homegrown.config.tokens import PackSettings
from homegrown.data import packing

if __name__ == "__main__":
    write = packing._write
    def slowly(part, *rest):
        if part.number == 1:
            time.sleep(60)
        return write(part, *rest)
    packing._write = slowly
    out, shards, tokenizer = map(Path, sys.argv[1:4])
    settings, context = PackSettings.model_validate_json(sys.argv[4]), int(sys.argv[5]) or None
    with ThreadPoolExecutor(1) as executor:
        packing.pack(
            out, shards, tokenizer, settings, context=context, shard_tokens=int(sys.argv[6]), executor=executor
        )
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous", "best_fit"])
def test_a_killed_run_resumes(
    layout: Literal["contiguous", "best_fit"],
    shards: Path,
    tokenizer_folder: Path,
    packed: Path,
    packed_in_rows: Path,
    tmp_path: Path,
    executor: Executor,
) -> None:
    rows = layout == "best_fit"
    expected, context = (packed_in_rows, 64) if rows else (packed, None)
    settings = PackSettings(layout=layout)
    shard_tokens = 4000 if rows else 1000
    arguments = [tmp_path, shards, tokenizer_folder, settings.model_dump_json(), str(context or 0), str(shard_tokens)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=Path(__file__).parents[2])
    finished = tmp_path / "train" / "part-00000.json"
    while not finished.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "index.json").exists()
    before = finished.stat().st_ino, (tmp_path / "train" / "tokens-00000-00.bin").stat().st_ino
    pack(tmp_path, shards, tokenizer_folder, settings, context=context, shard_tokens=shard_tokens, executor=executor)
    assert digests(tmp_path) == digests(expected)
    assert (finished.stat().st_ino, (tmp_path / "train" / "tokens-00000-00.bin").stat().st_ino) == before


def test_the_type_is_the_smallest_for_the_vocabulary() -> None:
    assert token_type(65_536) == "<u2"
    assert token_type(65_537) == "<u4"


@pytest.mark.parametrize(("content", "message"), [(b"junk", "cannot be read"), (None, "no column 'text'")])
def test_an_invalid_shard_is_an_error(
    tokenizer_folder: Path, tmp_path: Path, executor: Executor, content: bytes | None, message: str
) -> None:
    shard = tmp_path / "train" / "part-00000.parquet"
    shard.parent.mkdir()
    if content is None:
        pq.write_table(pa.table({"id": ["1"]}), shard)
    else:
        shard.write_bytes(content)
    with pytest.raises(UserError, match=message):
        pack(tmp_path / "out", tmp_path, tokenizer_folder, PackSettings(), executor=executor)


def test_no_training_text_is_an_error(tokenizer_folder: Path, tmp_path: Path, executor: Executor) -> None:
    write_shard(tmp_path / "validation" / "part-00000.parquet", make_texts(0, 2))
    with pytest.raises(UserError, match="has no documents"):
        pack(tmp_path / "out", tmp_path, tokenizer_folder, PackSettings(), executor=executor)
