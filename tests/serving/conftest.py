"""A small model with a tokenizer of bytes, as artifacts of the stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.quantization.variants import save_variant
from homegrown.serving.api import application
from homegrown.serving.loading import Limits, load, source
from homegrown.serving.service import Model, Service
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.tokenizer.chat import Chat
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.progress import Outcome
from tests.serving.running import running

CONTEXT = 128
OWN, LLAMA = "pretrain@1", "pretrain@1:f32"
ROWS, QUEUE = 8, 64

PROMPT = "The user"
TALK: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
]

both = pytest.mark.parametrize("name", [OWN, LLAMA])


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


def random_model(tokenizer: Tokenizer, context: int = CONTEXT) -> Transformer:
    config = ModelConfig(
        family="modern",
        vocabulary_size=tokenizer.get_vocab_size(),
        hidden=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_size=32,
        feed_forward=128,
        context=context,
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


@dataclass(frozen=True)
class Served:
    """A server with one model under both engines, and the model itself."""

    url: str
    service: Service
    store: Store
    model: Transformer
    tokenizer: Tokenizer

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def expected(self, prompt: list[int], tokens: int) -> str:
        (ids,) = generate(self.model, [prompt], max_tokens=tokens, stop_ids=Chat(self.tokenizer).stop_ids)
        text: str = self.tokenizer.decode(ids)
        return text

    def prompt(self, text: str) -> list[int]:
        return [0, *self.tokenizer.encode(text, add_special_tokens=False).ids]


@contextmanager
def serving(tokenizer: Tokenizer, folder: Path, context: int) -> Iterator[Served]:
    """Serve a random model of this context under both engines."""
    model = random_model(tokenizer, context)
    # Greedy output of ASCII tokens only is the same text in any division into tokens.
    plain = [token.isascii() and len(token) > 0 and number > 6 for token, number in ordered(tokenizer)]
    with torch.no_grad():
        model.model.embed_tokens.weight[~torch.tensor(plain)] = 0
    store = published(Store(folder / "artifacts"), model, tokenizer)
    artifact = store.resolve("pretrain")
    aliases, typed = {"gpt-4o-mini": OWN, "org/model": OWN}, {"typed": OWN}
    service = Service([Model(OWN, 1), Model(LLAMA, 2)], queue=QUEUE, aliases=aliases, typed=typed)
    limits = Limits(rows=ROWS, context=None, threads=1)
    for name, engine in ((OWN, "homegrown"), (LLAMA, "llama.cpp")):
        wanted = source(artifact.name, artifact, artifact.path / "model", name.partition(":")[2] or None)
        [(_, ready, chat)] = load(store, wanted, engine, "cpu", limits, partial(service.failed, name))  # type: ignore[arg-type]
        service.ready(name, ready, chat)
    with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
        yield Served(url, service, store, model, tokenizer)
    service.close()


@pytest.fixture(scope="package")
def served(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tokenizer, tmp_path_factory.mktemp("served"), CONTEXT) as found:
        yield found


@pytest.fixture(scope="package")
def served_long(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same with a context for tools and long prompts."""
    with serving(tokenizer, tmp_path_factory.mktemp("served"), 2048) as found:
        yield found


def ordered(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    return sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
