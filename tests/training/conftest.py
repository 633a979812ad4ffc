"""A tiny corpus, packed by the real stages, and the smallest settings that train on it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from homegrown.config.model import ModelSettings
from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.packing import pack
from homegrown.tokenizer.train import train_tokenizer
from homegrown.training.distributed import Worker

ONSETS, ENDINGS = (
    ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh"],
    ["ala", "eno", "iru", "oke", "umi", "ant", "erd", "isk", "orn", "ump", "ate", "ove", "ile", "ash", "ing"],
)
WORDS = [onset + ending for onset in ONSETS for ending in ENDINGS]


def sentences(seed: int, documents: int) -> list[str]:
    """Chains of made-up words in which each word has three possible successors: easy to learn, impossible to recite."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(documents):
        chain = [int(random.integers(len(WORDS)))]
        for choice in random.integers(3, size=29):
            chain.append((7 * chain[-1] + 31 * int(choice) + 5) % len(WORDS))
        texts.append(" ".join(WORDS[word] for word in chain) + ".")
    return texts


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """This process as the only worker of a group; several packages' tests import this fixture, each as its own."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def worker(alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """The only worker, in this process."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    worker = Worker("cpu")
    torch.set_num_threads(1)
    worker.writers = dist.group.WORLD
    yield worker
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders `packed` and `tokenizer`."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, (split, documents) in enumerate({"train": 400, "validation": 60, "test": 20}.items()):
        path = folder / "shards" / split / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        texts = sentences(number, documents)
        ids = [f"{split}-{row}" for row in range(documents)]
        pq.write_table(pa.table({"id": ids, "text": texts, "source": ["made"] * documents}), path)
    train_tokenizer(folder / "tokenizer", folder / "shards", TokenizerSettings(vocabulary_size=512, sample_mb=1))
    with ThreadPoolExecutor(1) as executor:
        pack(
            folder / "packed",
            folder / "shards",
            folder / "tokenizer",
            PackSettings(),
            shard_tokens=4096,
            executor=executor,
        )
    return {"packed": folder / "packed", "tokenizer": folder / "tokenizer"}


@pytest.fixture(scope="session")
def model_settings() -> ModelSettings:
    return ModelSettings(family="modern", hidden=64, layers=2, heads=4, kv_heads=2, feed_forward=128, context=32)


@pytest.fixture(scope="session")
def training_settings() -> TrainingSettings:
    return TrainingSettings(
        max_steps=24,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=5e-3,
        averaging=0.2,
        warmup_steps=4,
        weight_decay=0.1,
        dropout=0.1,
        precision="fp32",
        validate_every=6,
        validation_tokens=512,
        checkpoint_every=5,
        sample_every=12,
        sample_prompts=["bala", ""],
        sample_tokens=8,
    )


@pytest.fixture(scope="session")
def tiny(model_settings: ModelSettings, training_settings: TrainingSettings) -> tuple[ModelSettings, TrainingSettings]:
    return model_settings, training_settings
