"""The layout best_fit from documents to batches: every prediction of every document once."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from homegrown.config.tokens import PackSettings
from homegrown.data.index import read_index
from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.packing import pack
from homegrown.data.rows import NO_TARGET, parts
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from homegrown.util.parallel import process_pool
from tests.tokenizer.texts import split_texts, write_shard

CONTEXT = 64
BEST_FIT = PackSettings(layout="best_fit")


@pytest.fixture(scope="module")
def train(packed_in_rows: Path) -> TokenSplit:
    return TokenSplit(packed_in_rows, "train")


@pytest.fixture(scope="module")
def documents(shards: Path, tokenizer_folder: Path) -> list[list[int]]:
    tokenizer = load(tokenizer_folder)
    return [[0, *tokenizer.encode(text).ids, 2] for text in split_texts(shards, "train")]


def test_every_document_occurs_once(train: TokenSplit, documents: list[list[int]]) -> None:
    found = [train.document(number).tolist() for number in range(train.documents)]
    assert sorted(found) == sorted(documents)
    assert train.tokens == sum(map(len, documents))


def test_rows_predict_every_token_of_every_document_once(train: TokenSplit, documents: list[list[int]]) -> None:
    rows = train.read(range(train.windows(CONTEXT)), CONTEXT)
    assert rows.dtype == np.int64
    inputs, targets, starts = parts(rows)
    pieces: Counter[tuple[int, ...]] = Counter()
    for row in range(len(rows)):
        assert (np.diff(starts[row]) >= 0).all()
        for start in np.unique(starts[row]):
            places = starts[row] == start
            assert places.argmax() == start
            if targets[row, start] == NO_TARGET:
                assert (targets[row, start:] == NO_TARGET).all()
            else:
                assert (inputs[row, places][1:] == targets[row, places][:-1]).all()
                pieces[(int(inputs[row, start]), *targets[row, places].tolist())] += 1
    # Every document together again, the last token of a piece being the first of the next; and nothing left over.
    for document in documents:
        begin = 0
        while begin < len(document) - 1:
            ends = range(min(begin + CONTEXT, len(document) - 1), begin, -1)
            end = next(end for end in ends if pieces[tuple(document[begin : end + 1])])
            pieces[tuple(document[begin : end + 1])] -= 1
            begin = end
    assert not +pieces


def test_padding_is_recorded_and_small(
    packed_in_rows: Path, shards: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as executor:
        outcome = pack(
            tmp_path, shards, tokenizer_folder, BEST_FIT, context=CONTEXT, shard_tokens=4000, executor=executor
        )
    targets = []
    for split in ("train", "validation", "test"):
        tokens = TokenSplit(packed_in_rows, split)
        targets.append(parts(tokens.read(range(tokens.windows(CONTEXT)), CONTEXT))[1])
    every = np.concatenate(targets)
    assert outcome.metrics["rows"] == len(every)
    assert outcome.metrics["padding"] == pytest.approx((every == NO_TARGET).mean())
    files = [file for files in read_index(packed_in_rows).splits.values() for file in files]
    assert (every == NO_TARGET).sum() <= max(0.01 * every.size, len(files) * (CONTEXT - 1))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_an_epoch_draws_every_row_once(train: TokenSplit, batch_size: int) -> None:
    rows = train.windows(CONTEXT)
    batches = Batches(train, CONTEXT, batch_size, seed=3)
    drawn = np.concatenate([batches.batch(step) for step in range(2 * -(-rows // batch_size))])[: 2 * rows]
    every = Counter(row.tobytes() for row in train.read(range(rows), CONTEXT))
    orders = [[row.tobytes() for row in epoch] for epoch in (drawn[:rows], drawn[rows:])]
    assert all(Counter(order) == every for order in orders)
    assert orders[0] != orders[1]
    assert (Batches(train, CONTEXT, batch_size, seed=3).batch(3) == batches.batch(3)).all()


@pytest.mark.slow
def test_the_same_bytes_with_two_processes(
    shards: Path, tokenizer_folder: Path, packed_in_rows: Path, tmp_path: Path
) -> None:
    with process_pool(2) as executor:
        pack(tmp_path, shards, tokenizer_folder, BEST_FIT, context=CONTEXT, shard_tokens=4000, executor=executor)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert names == sorted(str(path.relative_to(packed_in_rows)) for path in packed_in_rows.rglob("*.*"))
    assert any("pieces" in name for name in names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (packed_in_rows / name).read_bytes()


def test_contiguous_shards_hold_the_same_documents(train: TokenSplit, packed: Path) -> None:
    contiguous = TokenSplit(packed, "train")
    assert (train.tokens, train.documents, train.bytes) == (contiguous.tokens, contiguous.documents, contiguous.bytes)
    assert (train.context, contiguous.context) == (CONTEXT, None)


def test_documents_shorter_than_a_row_are_not_cut(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "train" / "part-00000.parquet", ["", "ka", "lo mi", "ter sun ba"])
    with ThreadPoolExecutor(1) as executor:
        pack(
            tmp_path, tmp_path / "shards", tokenizer_folder, BEST_FIT, context=100, shard_tokens=4000, executor=executor
        )
    _, targets, starts = parts(TokenSplit(tmp_path, "train").read([0], 100))
    assert len(np.unique(starts)) == 5
    assert (targets[0][np.unique(starts)[1:] - 1] == 2).all()


def test_another_context_is_an_error(train: TokenSplit) -> None:
    with pytest.raises(UserError, match=r"rows of 64, but the model's context is 128"):
        Batches(train, 128, 4, seed=0)


@pytest.mark.parametrize("name", ["rows-00001-00.npy", "pieces-00001-00.npy"])
@pytest.mark.parametrize("keep", [None, 0, 200])
def test_a_bad_file_is_an_error(packed_in_rows: Path, tmp_path: Path, name: str, keep: int | None) -> None:
    shutil.copytree(packed_in_rows, tmp_path / "packed")
    path = tmp_path / "packed" / "train" / name
    path.unlink() if keep is None else path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=name):
        TokenSplit(tmp_path / "packed", "train")


def test_a_row_beyond_the_last_is_an_error(train: TokenSplit) -> None:
    for index in (-1, train.windows(CONTEXT)):
        with pytest.raises(IndexError):
            train.read([index], CONTEXT)
