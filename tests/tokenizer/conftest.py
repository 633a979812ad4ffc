"""A small corpus of shards, its tokenizer and its token shards."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.data.packing import pack
from homegrown.tokenizer.train import train_tokenizer
from tests.tokenizer.texts import VOCABULARY, make_texts, write_shard


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for part in range(3):
        write_shard(folder / "train" / f"part-{part:05d}.parquet", make_texts(part, 60), f"source-{part}")
    write_shard(folder / "validation" / "part-00000.parquet", make_texts(3, 10))
    write_shard(folder / "test" / "part-00000.parquet", [*make_texts(4, 10), ""])
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, shards, TokenizerSettings(vocabulary_size=VOCABULARY, sample_mb=1))
    return folder


@pytest.fixture(scope="session")
def packed(shards: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    with ThreadPoolExecutor(1) as executor:
        pack(folder, shards, tokenizer_folder, PackSettings(), shard_tokens=1000, executor=executor)
    return folder


@pytest.fixture(scope="session")
def packed_in_rows(shards: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents in rows of 64, which are shorter than most of them."""
    folder = tmp_path_factory.mktemp("rows")
    settings = PackSettings(layout="best_fit")
    with ThreadPoolExecutor(1) as executor:
        pack(folder, shards, tokenizer_folder, settings, context=64, shard_tokens=4000, executor=executor)
    return folder
