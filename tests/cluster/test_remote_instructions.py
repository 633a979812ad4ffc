"""Conversations on a real S3 server: read as the same file of this machine is, and known by their content."""

import gzip
import json
from pathlib import Path

import pytest

from homegrown.data.instruction_files import find, identity, read
from homegrown.store.digests import Digests

pytestmark = pytest.mark.slow


def write(address: str, data: bytes) -> None:
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False).pipe_file(address, data)
    s3fs.S3FileSystem.clear_instance_cache()  # a new process knows no listing


def test_conversations_in_a_bucket_are_those_of_the_same_file_here(tmp_path: Path, bucket: str) -> None:
    records = [{"question": f"{number}?", "answer": "naïve"} for number in range(1000)]
    data = gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode())
    write(f"{bucket}/talks/answers.jsonl.gz", data)
    write(f"{bucket}/talks/notes.txt", b"no")
    for named in (f"{bucket}/talks/answers.jsonl.gz", f"{bucket}/talks", f"{bucket}/talks/*.gz"):
        (file,) = find([named])
        assert file == f"{bucket}/talks/answers.jsonl.gz"
        assert [record.value for record in read(file)] == records


def test_what_stands_for_a_file_in_a_bucket_follows_its_content(tmp_path: Path, bucket: str) -> None:
    def known(data: bytes) -> str:
        write(f"{bucket}/answers.jsonl", data)
        (file,) = find([f"{bucket}/answers.jsonl"])
        with Digests(tmp_path / "digests.sqlite") as digests:
            return identity(file, digests)

    first = known(b"{}\n")
    assert known(b"[]\n") != first, "of the same length"
    assert known(b"{}\n") == first, "the same bytes, written anew"
