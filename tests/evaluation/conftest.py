"""A small test split and its tokenizer."""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.packing import pack
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.train import train_tokenizer
from tests.evaluation.small_model import CONTEXT, VOCABULARY

WORDS = ("the", "a", "model", "text", "of", "für", "größe", "<b>", "&", "жизнь", "語言", "reads", "writes.", "then,")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def write_stages(folder: Path, lengths: dict[str, list[int]], more: Mapping[str, Sequence[str]] = {}) -> Path:
    """Write `shard`, `tokenizer` and `pack` for documents of so many words in each split, and for the texts `more`."""
    dice = random.Random(2)
    for split, counts in lengths.items():
        texts = [*(" ".join(dice.choices(WORDS, k=length)) for length in counts), *more.get(split, ())]
        (folder / "shard" / split).mkdir(parents=True)
        ids = [f"{split}-{number}" for number in range(len(texts))]
        sources = ["even" if number % 2 == 0 else "odd" for number in range(len(texts))]
        table = pa.table({"id": ids, "text": texts, "source": sources})
        pq.write_table(table, folder / "shard" / split / "part-00000.parquet")
    settings = TokenizerSettings(vocabulary_size=VOCABULARY, sample_mb=1)
    train_tokenizer(folder / "tokenizer", folder / "shard", settings)
    with ThreadPoolExecutor(1) as executor:
        pack(folder / "pack", folder / "shard", folder / "tokenizer", PackSettings(), executor=executor)
    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shard`, `tokenizer` and `pack`; the test split has 8 long and 2 short documents."""
    lengths = {"train": [60] * 40, "validation": [120], "test": [80] * 8 + [3] * 2}
    return write_stages(tmp_path_factory.mktemp("stages"), lengths)


@pytest.fixture(scope="session")
def one_document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one test document."""
    lengths = {"train": [60] * 40, "validation": [120], "test": [80]}
    return write_stages(tmp_path_factory.mktemp("one"), lengths)


@pytest.fixture(scope="session")
def fitted(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents packed in rows of the small model's context, so in another order."""
    folder = tmp_path_factory.mktemp("fitted")
    with ThreadPoolExecutor(1) as executor:
        settings = PackSettings(layout="best_fit")
        pack(folder, stages / "shard", stages / "tokenizer", settings, context=CONTEXT, executor=executor)
    return folder


@pytest.fixture
def split(stages: Path) -> TokenSplit:
    return TokenSplit(stages / "pack", "test")


@pytest.fixture
def tokenizer(stages: Path) -> Tokenizer:
    return load(stages / "tokenizer")
