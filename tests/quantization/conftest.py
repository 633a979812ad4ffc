"""A small model of each family as the stage `pretrain` writes it, and a little packed text."""

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.data.packing import pack
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.train import train_tokenizer

VOCABULARY = 300
WORDS = ("the", "a", "model", "text", "für", "größe", "жизнь", "語言", "reads", "writes.", "then,")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def small_model(family: str, **sizes: int) -> Transformer:
    fields = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 4, "feed_forward": 256, "context": 64} | sizes
    settings = ModelSettings.model_validate({"family": family, **fields})
    torch.manual_seed(3)
    model = Transformer(ModelConfig.from_settings(settings, VOCABULARY, 0.0))
    model.initialize()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shard`, `tokenizer` and `pack`, as the stages of these names make them."""
    folder = tmp_path_factory.mktemp("text")
    dice = random.Random(2)
    for split, documents in {"train": 30, "validation": 6, "test": 1}.items():
        texts = [" ".join(dice.choices(WORDS, k=60)) for _ in range(documents)]
        (folder / "shard" / split).mkdir(parents=True)
        table = pa.table({"text": texts, "source": ["made-up"] * documents})
        pq.write_table(table, folder / "shard" / split / "part-00000.parquet")
    settings = TokenizerSettings(vocabulary_size=VOCABULARY, sample_mb=1)
    train_tokenizer(folder / "tokenizer", folder / "shard", settings)
    with ThreadPoolExecutor(1) as executor:
        pack(folder / "pack", folder / "shard", folder / "tokenizer", PackSettings(), executor=executor)
    return folder


@pytest.fixture
def packed(text: Path) -> Path:
    return text / "pack"


@pytest.fixture
def pretrain(tmp_path: Path, text: Path) -> Callable[..., Path]:
    def write(family: str = "modern", **sizes: int) -> Path:
        folder = tmp_path / f"pretrain-{family}"
        weights.save(small_model(family, **sizes), folder / "model")
        shutil.copy(text / "tokenizer" / "tokenizer.json", folder / "model")
        return folder

    return write
