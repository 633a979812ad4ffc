"""The loader compared with the concatenated shards, and batches as a permutation of windows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.data.index import read_index
from homegrown.data.loader import Batches, TokenSplit
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from tests.tokenizer.texts import VOCABULARY, split_texts


@pytest.fixture(scope="module")
def flat(packed: Path) -> np.ndarray:
    files = read_index(packed).splits["train"]
    assert len(files) > 3
    return np.concatenate([np.fromfile(packed / file.tokens_file, dtype="<u2") for file in files]).astype(np.int64)


@pytest.fixture(scope="module")
def train(packed: Path) -> TokenSplit:
    return TokenSplit(packed, "train")


def test_counts(train: TokenSplit, shards: Path, flat: np.ndarray) -> None:
    texts = split_texts(shards, "train")
    assert train.vocabulary_size == VOCABULARY
    assert train.tokens == len(flat)
    assert train.documents == len(texts)
    assert train.bytes == sum(len(text.encode()) for text in texts)


@given(context=st.integers(1, 3000), offset=st.integers(0, 500))
def test_windows_are_slices_of_all_tokens(train: TokenSplit, flat: np.ndarray, context: int, offset: int) -> None:
    count = (train.tokens - offset - 1) // context
    rows = train.read(range(count), context, offset)
    assert rows.dtype == np.int64
    assert rows.shape == (count, context + 1)
    for index, row in enumerate(rows):
        assert (row == flat[offset + index * context : offset + (index + 1) * context + 1]).all()
    with pytest.raises(IndexError):
        train.read([count], context, offset)


@given(context=st.integers(1, 10**6))
def test_a_split_shorter_than_a_window_is_one_window(train: TokenSplit, flat: np.ndarray, context: int) -> None:
    fitting = train.fitting(context)
    assert train.windows(fitting) == max(1, train.windows(context))
    if not train.windows(context):
        assert (train.read([0], fitting)[0] == flat).all()


def test_documents_decode_to_the_texts(train: TokenSplit, shards: Path, tokenizer_folder: Path) -> None:
    tokenizer = load(tokenizer_folder)
    documents = [train.document(index) for index in range(train.documents)]
    assert all(document[0] == 0 and document[-1] == 2 for document in documents)
    assert [tokenizer.decode(document[1:-1].tolist()) for document in documents] == split_texts(shards, "train")
    with pytest.raises(IndexError):
        train.document(train.documents)


@pytest.mark.parametrize(("context", "batch_size"), [(16, 5), (100, 64), (2000, 7)])
def test_an_epoch_draws_every_window_once(train: TokenSplit, flat: np.ndarray, context: int, batch_size: int) -> None:
    batches = Batches(train, context, batch_size, seed=3)
    windows = (train.tokens - context) // context
    rows = np.concatenate([batches.batch(step) for step in range(3 * -(-windows // batch_size))])
    assert rows.shape[1] == context + 1
    slices = np.lib.stride_tricks.sliding_window_view(flat, context + 1)
    offsets = set()
    orders = []
    for epoch in range(2):
        drawn = rows[epoch * windows : (epoch + 1) * windows]
        places = [int(np.flatnonzero((slices == row).all(1))[0]) for row in drawn]
        (offset,) = {place % context for place in places}
        assert sorted(place // context for place in places) == list(range(windows))
        offsets.add(offset)
        orders.append([place // context for place in places])
    assert len(offsets) == 2
    assert orders[0] != orders[1]


def test_a_batch_depends_on_the_seed_and_the_step_only(train: TokenSplit, packed: Path) -> None:
    batches = Batches(train, 32, 4, seed=1)
    expected = [batches.batch(step) for step in range(300)]
    again = Batches(TokenSplit(packed, "train"), 32, 4, seed=1)
    for step in (299, 0, 137, 299):
        assert (again.batch(step) == expected[step]).all()
    assert (Batches(train, 32, 4, seed=2).batch(0) != expected[0]).any()


def test_a_split_just_long_enough_for_one_window(train: TokenSplit) -> None:
    context = train.tokens - 1
    assert (Batches(train, context, 2, seed=0).batch(5) == train.read([0, 0], context)).all()
    with pytest.raises(UserError, match=r"model\.context"):
        Batches(train, train.tokens, 2, seed=0)


@pytest.fixture
def damaged(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("index", [None, "{", '{"dtype": "|O"}'])
def test_a_bad_index_is_an_error(damaged: Path, index: str | None) -> None:
    path = damaged / "index.json"
    path.unlink() if index is None else path.write_text(index)
    with pytest.raises(UserError, match=r"index\.json"):
        TokenSplit(damaged, "train")


def test_an_index_with_an_unknown_field_is_refused(damaged: Path) -> None:
    index = json.loads((damaged / "index.json").read_text())
    (damaged / "index.json").write_text(json.dumps(index | {"extra": 1}))
    with pytest.raises(UserError, match="damaged"):
        TokenSplit(damaged, "train")


@pytest.mark.parametrize("name", ["tokens-00001-00.bin", "documents-00001-00.npy"])
@pytest.mark.parametrize("keep", [None, 0, 200, 201])
def test_a_bad_shard_is_an_error(damaged: Path, name: str, keep: int | None) -> None:
    path = damaged / "train" / name
    path.unlink() if keep is None else path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=name):
        TokenSplit(damaged, "train")
