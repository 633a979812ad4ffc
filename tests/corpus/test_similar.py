"""What is like a text, against datasketch's own index over the signatures that dedup has stored."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.config.corpus import DedupSettings
from homegrown.corpus.dedup import dedup
from homegrown.corpus.minhash import permutations
from homegrown.corpus.similar import _signature, similar
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts
from homegrown.util.progress import Outcome
from homegrown.util.seeds import derive
from tests.corpus.made_up import edited, rows_of, sentence, write_documents

SETTINGS = DedupSettings()


def texts() -> list[list[str]]:
    random = Random(1)
    originals = [sentence(random, 100) for _ in range(40)]
    return originals + [edited(random, originals[0], share) for share in (0.01, 0.03, 0.06)]


def build(base: Path) -> None:
    write_documents(base / "in", [" ".join(words) for words in [*texts(), texts()[5]]], rows=15)
    with ThreadPoolExecutor(1) as executor:
        dedup(base / "out", base / "in", SETTINGS, seed=3, memory_gb=0.5, executor=executor)


def test_datasketch_loads_what_is_stored_and_finds_the_same(tmp_path: Path) -> None:
    from datasketch import MinHash, MinHashLSH

    build(tmp_path)
    query = " ".join(texts()[0])
    matches = similar(query, tmp_path / "out" / "signatures", tmp_path / "in" / "documents", seed=3, most=50)
    seed = derive(3, "dedup")
    permuted = permutations(126, seed)

    def minhash_of(values: np.ndarray) -> MinHash:
        return MinHash(hashvalues=values, permutations=permuted, scheme="affine32", seed=seed % 2**32)

    lsh = MinHashLSH(num_perm=126, params=(SETTINGS.bands, SETTINGS.rows))
    for part in parquet_parts(tmp_path / "out" / "signatures"):
        for row in pq.read_table(part).to_pylist():
            if row["id"] not in lsh:
                lsh.insert(row["id"], minhash_of(np.frombuffer(row["signature"], "<u4")))
    found = {match.id: match for match in matches}
    by_id = {row["id"]: row["text"] for row in rows_of(tmp_path / "in" / "documents")}
    candidates = lsh.query(minhash_of(_signature(query, permuted)))
    assert 2 <= len(candidates) <= len(found)
    assert set(candidates) <= set(found), "what agrees in a band is among what is most alike"
    assert matches[0].similarity == 1.0 and by_id[matches[0].id] == query
    assert [match.similarity for match in matches] == sorted((match.similarity for match in matches), reverse=True)
    assert all(by_id[match.id].startswith(match.text_start) for match in matches)
    with pytest.raises(UserError, match="no words"):
        similar("?!", tmp_path / "out" / "signatures", tmp_path / "in" / "documents", seed=3, most=5)


def test_the_command_finds_an_edited_copy(tmp_path: Path) -> None:
    build(tmp_path)
    store = Store(tmp_path / "artifacts")
    ingest = Order("ingest", "code", {}, {})
    settings = {"settings": SETTINGS.model_dump(mode="json"), "seed": 3}
    wanted = Order("dedup", "code", settings, {"ingest": ingest.key})
    for order, folder in ((ingest, tmp_path / "in"), (wanted, tmp_path / "out")):

        def move(out: Path, folder: Path = folder) -> Outcome:
            for table in list(folder.iterdir()):
                table.rename(out / table.name)
            return Outcome(1, 1)

        store.make(order, store.slot(order.stage, order.key), move)
    file = tmp_path / "question.txt"
    file.write_text(" ".join(edited(Random(9), texts()[7], 0.02)).upper())
    ran = CliRunner().invoke(cli, ["--artifacts", str(tmp_path / "artifacts"), "similar", str(file), "--most", "1"])
    assert ran.exit_code == 0, ran.output
    assert " ".join(texts()[7])[:40] in ran.output.splitlines()[1]
    file.write_bytes(bytes(range(256)))
    ran = CliRunner().invoke(cli, ["--artifacts", str(tmp_path / "artifacts"), "similar", str(file)])
    assert ran.exit_code == 1 and "is not text" in ran.output
