"""A small model with a tokenizer of bytes, as artifacts of the stages."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.quantization.variants import save_variant
from homegrown.store.artifacts import Order, Store
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.progress import Outcome

CONTEXT = 128


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["user assistant"] * 3,
        trainers.BpeTrainer(vocab_size=280, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet),
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


def random_model(tokenizer: Tokenizer) -> Transformer:
    config = ModelConfig(
        family="modern",
        vocabulary_size=tokenizer.get_vocab_size(),
        hidden=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_size=32,
        feed_forward=128,
        context=CONTEXT,
        dropout=0.0,
        tied=True,
    )
    torch.manual_seed(3)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, mean=float(parameter.ndim == 1))
    return model.eval()


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    return random_model(tokenizer)


def published(store: Store, model: Transformer, tokenizer: Tokenizer) -> Store:
    """Put a model into a store as an artifact of pretrain."""

    def write(out: Path) -> Outcome:
        weights.save(model, out / "model")
        tokenizer.save(str(out / "model" / TOKENIZER_FILE))
        return Outcome(rows_in=1, rows_out=1, unit="models")

    order = Order("pretrain", "code", {}, {})
    store.make(order, store.slot("pretrain", order.key), write)
    return store


@pytest.fixture
def trained(store: Store, model: Transformer, tokenizer: Tokenizer) -> Store:
    """A store with the model as an artifact of pretrain, and its int8 as one of quantize."""
    published(store, model, tokenizer)

    def quantize(out: Path) -> Outcome:
        source = store.resolve("pretrain").path / "model"
        save_variant(source, "int8", out / "int8")
        return Outcome(rows_in=1, rows_out=1, unit="variants")

    order = Order("quantize", "code", {}, {})
    store.make(order, store.slot("quantize", order.key), quantize)
    return store
