"""Training on rows of documents or conversations: losses are means over what is learned, each on its own."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from homegrown.config.finetune_recipe import ConversationRows, InstructionSettings
from homegrown.config.model import ModelSettings
from homegrown.config.tokens import PackSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.instructions import prepare
from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.packing import pack
from homegrown.model.transformer import Transformer
from homegrown.training.callbacks import standard
from homegrown.training.distributed import Worker
from homegrown.training.pretraining import Job
from homegrown.training.progress_file import Report
from homegrown.training.stopping import Stop
from homegrown.training.trainer import Trainer
from homegrown.util.seeds import derive


@pytest.fixture(scope="module", params=["documents", "conversations"])
def rows(
    request: pytest.FixtureRequest, corpus: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("rows")
    if request.param == "conversations":
        file = tmp_path_factory.mktemp("talks") / "talks.jsonl"
        pairs = [{"question": str(number), "answer": f"bala {number % 7} deno"} for number in range(300)]
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        settings = InstructionSettings(files=[str(file)], held_out=0.2)
        prepare(out, corpus["tokenizer"], settings, rows=ConversationRows(context=32))
        return corpus | {"packed": out}
    shards, packing = corpus["tokenizer"].parent / "shards", PackSettings(layout="best_fit")
    with ThreadPoolExecutor(1) as executor:
        pack(out, shards, corpus["tokenizer"], packing, context=32, executor=executor)
    return corpus | {"packed": out}


def loss_alone(model: Transformer, batch: np.ndarray) -> tuple[float, int]:
    """The summed loss of the rows' documents, each given to the model by itself, and how many tokens are learned."""
    nats, count = 0.0, 0
    for inputs, targets, starts in torch.from_numpy(batch):
        for start in starts.unique():
            piece = starts == start
            if (targets[piece] != -100).any():
                with torch.no_grad():
                    nats += float(cross_entropy(model(inputs[None, piece])[0], targets[piece], reduction="sum"))
                count += int((targets[piece] != -100).sum())
    return nats, count


def test_losses_are_those_of_each_document_alone(
    rows: dict[str, Path],
    model_settings: ModelSettings,
    training_settings: TrainingSettings,
    worker: Worker,
    tmp_path: Path,
) -> None:
    changes = {"dropout": 0.0, "averaging": None, "max_steps": 12, "micro_batch_size": 1, "sample_prompts": []}
    job = Job(**rows, model=model_settings, training=training_settings.model_copy(update=changes), seed=1, device="cpu")
    trainer = Trainer(job, tmp_path, worker, Report(tmp_path / "progress.jsonl"), standard())
    trainer.start()
    first = Batches(TokenSplit(rows["packed"], "train"), 32, 4, derive(1, "batches")).batch(0)
    first[0, 1, 20:], first[0, 2, 20:] = -100, 20  # more padding than packed rows have
    trainer.batches = SimpleNamespace(batch=lambda step: first)
    nats, count = loss_alone(trainer.model, first)
    assert count <= 4 * 32 - 12
    trainer.run(Stop())
    losses = [step.loss for step in trainer.state.metrics]
    assert losses[0] == pytest.approx(nats / count, rel=1e-5)
    assert losses[-1] < losses[0] - 0.5

    split = TokenSplit(rows["packed"], "validation")
    chosen = np.linspace(0, split.windows(32) - 1, 16).round().astype(int)
    nats, count = loss_alone(trainer.model.eval(), split.read(chosen, 32))
    last = trainer.state.metrics[-1]
    assert last.validation_loss == pytest.approx(nats / count, rel=1e-5)
    assert last.validation_bits_per_byte < nats / count / math.log(2)
