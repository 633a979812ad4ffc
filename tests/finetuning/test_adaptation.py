"""Continued pretraining: where it starts, what it trains, and its result beside peft's."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from homegrown.config.adaptation import AdaptationSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.rows import parts
from homegrown.export.huggingface import write_huggingface
from homegrown.finetuning.adaptation import AdaptationJob, adapt
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive

pytestmark = pytest.mark.usefixtures("trains_here")

CONTEXT = 32


@pytest.fixture(scope="module")
def base(corpus: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the tokenizer of the corpus and a context of twice the training sequences."""
    folder = tmp_path_factory.mktemp("base")
    config = ModelConfig(
        family="modern",
        vocabulary_size=512,
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_size=16,
        feed_forward=128,
        context=2 * CONTEXT,
        dropout=0.0,
        tied=True,
    )
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    weights.save(model, folder)
    shutil.copy(corpus["tokenizer"] / "tokenizer.json", folder)
    return folder


def settings(method: str, **changes: object) -> AdaptationSettings:
    return AdaptationSettings.model_validate({"method": method, "rank": 4, "context": CONTEXT} | changes)


def training(settings: TrainingSettings, **changes: object) -> TrainingSettings:
    values = {
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "dropout": 0.0,
        "precision": "fp32",
        "max_steps": 12,
        "sample_prompts": [],
    }
    return TrainingSettings.model_validate(settings.model_dump() | values | changes)


def run(out: Path, base: Path, corpus: dict[str, Path], how: AdaptationSettings, steps: TrainingSettings) -> Path:
    adapt(out, base, corpus["packed"], how, steps, seed=1, device="cpu", processes=1)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_starts_from_the_base_and_keeps_its_context(
    method: str, base: Path, corpus: dict[str, Path], training_settings: TrainingSettings, tmp_path: Path
) -> None:
    steps = training(training_settings)
    out = run(tmp_path / "out", base, corpus, settings(method), steps)
    losses = pq.read_table(out / "metrics.parquet")["loss"].to_pylist()
    batches = Batches(TokenSplit(corpus["packed"], "train"), CONTEXT, steps.batch_size, derive(1, "batches"))
    inputs, targets, _ = parts(torch.from_numpy(batches.batch(0)))
    original = weights.load(base)
    assert losses[0] == pytest.approx(original.loss(inputs, targets).item() / targets.numel(), abs=1e-5)
    assert losses[-1] < losses[0]
    result = weights.load(out / "model")
    assert result.config.context == original.config.context
    changed = {
        name for name, tensor in original.state_dict().items() if not torch.equal(tensor, result.state_dict()[name])
    }
    projections = {name for name in original.state_dict() if "_proj" in name}
    assert changed == (set(original.state_dict()) if method == "full" else projections)


@pytest.mark.slow
@pytest.mark.parametrize("embeddings", [False, True])
def test_the_result_is_the_adapter_merged_as_peft_merges_it(
    embeddings: bool, base: Path, corpus: dict[str, Path], training_settings: TrainingSettings, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    how = settings("lora", embeddings=embeddings)
    out = run(tmp_path / "out", base, corpus, how, training(training_settings))
    write_huggingface(base, tmp_path / "hf", "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    result = weights.load(out / "model")
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(result.model.embed_tokens.weight, embedding) is not embeddings
    with torch.no_grad():
        merged = PeftModel.from_pretrained(theirs, out / "adapter").merge_and_unload().eval()
        ids = torch.randint(8, 500, (2, CONTEXT), generator=torch.Generator().manual_seed(2))
        assert torch.allclose(result.eval()(ids), merged(ids).logits, atol=1e-4)


def test_a_frozen_base_is_in_16_bits_where_its_products_are(
    base: Path, corpus: dict[str, Path], training_settings: TrainingSettings
) -> None:
    job = AdaptationJob(
        packed=corpus["packed"],
        tokenizer=base,
        base=base,
        training=training(training_settings, precision="bf16"),
        adaptation=settings("lora"),
        seed=1,
        device="cpu",
    )
    model = job.task(TokenSplit(corpus["packed"], "train"), load(base)).begin()
    types = {(one.requires_grad, one.ndim, one.dtype) for one in model.parameters()}
    assert types == {(True, 2, torch.float32), (False, 2, torch.bfloat16), (False, 1, torch.float32)}
    assert model.model.positions.dtype == torch.float32


def test_sequences_longer_than_the_bases_context_are_refused(
    base: Path, corpus: dict[str, Path], training_settings: TrainingSettings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"adaptation.context is 65, but the base has a context of 64; lower it\."):
        run(tmp_path, base, corpus, settings("full", context=65), training(training_settings))
