"""The loss by source of a mixture compared with that of its documents alone."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.config.tokens import PackSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.index import read_index
from homegrown.data.loader import TokenSplit
from homegrown.data.packing import pack
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.training.distributed import Worker
from homegrown.training.next_token import NextToken
from homegrown.training.precision import choose_precision
from homegrown.training.validation import Validator
from tests.training.conftest import sentences


def test_each_source_has_its_loss(
    corpus: dict[str, Path],
    model_settings: ModelSettings,
    training_settings: TrainingSettings,
    worker: Worker,
    tmp_path: Path,
) -> None:
    for split in ("train", "validation", "test"):
        rows = [
            {"text": text, "source": source}
            for seed, source in enumerate(("easy", "hard"))
            for text in sentences(seed, 12)
        ]
        path = tmp_path / "shards" / split / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows[::2] + rows[1::2]), path)
    settings = PackSettings.model_validate({"mixture": [{"weights": {"easy": {"epochs": 1}, "hard": {"epochs": 2}}}]})
    with ThreadPoolExecutor(1) as executor:
        pack(tmp_path / "packed", tmp_path / "shards", corpus["tokenizer"], settings, executor=executor)
    split = TokenSplit(tmp_path / "packed", "validation")
    torch.manual_seed(1)
    model = Transformer(ModelConfig.from_settings(model_settings, split.vocabulary_size, 0.0))
    sizes = token_bytes(load(corpus["tokenizer"]))
    context = model_settings.context
    most = training_settings.model_copy(update={"validation_tokens": 10**6})
    validator = Validator(split, context, most, sizes, worker, choose_precision("fp32", "cpu"))
    measured = validator(NextToken(model), 5)

    files = read_index(tmp_path / "packed").splits["validation"]
    tokens = np.concatenate([np.fromfile(tmp_path / "packed" / file.tokens_file, "<u2") for file in files])
    nats, read = {"easy": 0.0, "hard": 0.0}, {"easy": 0, "hard": 0}
    for start in range(0, len(tokens) - context, context):
        window = torch.from_numpy(tokens[start : start + context + 1].astype(np.int64))[None]
        source = "easy" if start < files[0].tokens else "hard"
        with torch.no_grad():
            nats[source] += float(model.loss(window[:, :-1], window[:, 1:], None))
        read[source] += int(sizes[window[0, 1:].numpy()].sum())
    assert [file.source for file in files] == ["easy", "hard"]
    expected = {source: nats[source] / math.log(2) / read[source] for source in nats}
    assert measured.by_source == pytest.approx(expected, rel=1e-5)
    assert measured.bits_per_byte == pytest.approx(sum(nats.values()) / math.log(2) / sum(read.values()), rel=1e-5)
