"""Models of every supported architecture, compared with transformers, llama.cpp and onnxruntime."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from homegrown.export.gguf import write_gguf
from homegrown.export.gguf_reader import read_gguf, read_gguf_model
from homegrown.export.huggingface import write_huggingface
from homegrown.export.huggingface_reader import read_huggingface
from homegrown.export.onnx import cache_names, write_onnx
from homegrown.inference.compiled_step import CompiledStep
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import load_chat
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from tests.export.architectures import BASES, CONTEXT, ORIGINAL, WINDOW, save_base
from tests.export.exportable import random_texts
from tests.export.llama_server import LlamaServer, serving

pytestmark = pytest.mark.slow

LENGTH, PROMPT = 100, 60
assert WINDOW < ORIGINAL < PROMPT < LENGTH < CONTEXT


@dataclass(frozen=True)
class Base:
    """A base of transformers, and the same imported; logits are float32 [2, LENGTH, vocabulary]."""

    folder: Path
    theirs: torch.nn.Module
    ours: Transformer
    ids: torch.Tensor
    logits: torch.Tensor

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def prompt(self) -> list[int]:
        """A prompt within the context of the base's GGUF file."""
        row: list[int] = self.ids[0, : PROMPT if self.ours.config.sliding_window is None else WINDOW // 2].tolist()
        return row


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = save_base(folder / "hf", request.param)
    read_huggingface(folder / "hf", folder / "model")
    ours = weights.load(folder / "model")
    ids = torch.randint(ours.config.vocabulary_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return Base(folder, theirs, ours, ids, theirs(ids).logits[..., : ours.config.vocabulary_size])


@pytest.fixture(scope="module")
def gguf(base: Base) -> Path:
    write_gguf(base.model, base.folder / "f32.gguf", "f32")
    return base.folder / "f32.gguf"


@pytest.fixture(scope="module")
def llama(base: Base, gguf: Path) -> Iterator[LlamaServer]:
    with serving(gguf, context=CONTEXT) as server:
        yield server


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def cache_of(base: Base) -> KVCache:
    return KVCache(base.ours.config, len(base.ids), CONTEXT, torch.device("cpu"), torch.float32)


def test_logits_and_loss_equal_transformers(base: Base) -> None:
    """Beyond the original context of scaled positions and beyond the sliding window."""
    with torch.no_grad():
        near(base.ours(base.ids), base.logits)
    expected = torch.nn.functional.cross_entropy(base.logits[:, :-1].flatten(0, 1), base.ids[:, 1:].flatten())
    near(base.ours.loss(base.ids[:, :-1], base.ids[:, 1:]) / base.ids[:, 1:].numel(), expected)


def test_gradients_equal_transformers(base: Base) -> None:
    name, size = "model.layers.0.self_attn.k_proj.weight", base.ours.config.vocabulary_size
    logits, targets = base.theirs(base.ids[:, :-1]).logits[..., :size], base.ids[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    found = base.ours.loss(base.ids[:, :-1], targets) / targets.numel()
    near(
        *torch.autograd.grad(found, base.ours.get_parameter(name)),
        *torch.autograd.grad(expected, base.theirs.get_parameter(name)),
    )


def test_the_cache_and_the_compiled_step_give_the_same(base: Base) -> None:
    cache, start = cache_of(base), 40
    with torch.no_grad():
        parts = [base.ours(base.ids[:, :start], cache), base.ours(base.ids[:, start:PROMPT], cache)]
        parts += [base.ours(base.ids[:, place, None], cache) for place in range(PROMPT, LENGTH)]
        near(torch.cat(parts, 1), base.logits)
        cache = cache_of(base)
        base.ours(base.ids[:, :start], cache)
    assert CompiledStep.serves(base.ours)
    step = CompiledStep(base.ours)
    for place in range(start, LENGTH):
        near(step(base.ids[:, place].tolist(), cache), base.logits[:, place])


def test_documents_in_one_row_are_as_alone(base: Base) -> None:
    starts = torch.zeros_like(base.ids)
    starts[:, 45:] = 45
    targets = base.ids.flip(1)
    alone = base.ours.loss(base.ids[:, :45], targets[:, :45]) + base.ours.loss(base.ids[:, 45:], targets[:, 45:])
    torch.testing.assert_close(base.ours.loss(base.ids, targets, starts), alone, rtol=1e-5, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(base.ours.loss(base.ids, targets, starts), alone, rtol=1e-5, atol=0)


def test_the_hugging_face_export_round_trips(base: Base) -> None:
    from transformers import AutoModelForCausalLM

    write_huggingface(base.model, base.folder / "again", "float32")
    again = AutoModelForCausalLM.from_pretrained(base.folder / "again").eval()
    assert type(again) is type(base.theirs)
    with torch.no_grad():
        near(again(base.ids).logits, base.logits)
    read_huggingface(base.folder / "again", base.folder / "imported again")
    assert weights.load_config(base.folder / "imported again" / "config.json") == base.ours.config


def test_llama_cpp_generates_the_same_greedy_tokens(base: Base, llama: LlamaServer) -> None:
    prompt, stops = base.prompt, load_chat(base.model).stop_ids
    count = (CONTEXT if base.ours.config.sliding_window is None else WINDOW) - len(prompt)
    (ours,) = generate(base.ours, [prompt], max_tokens=count, stop_ids=stops)
    assert len(ours) > 5
    # With ignore_eos, llama.cpp never chooses a stop token, so both agree until ours does.
    assert llama.complete(prompt, len(ours), ignore_eos=True)["tokens"] == ours
    expected = base.logits[0, len(prompt) - 1].log_softmax(-1)
    found = llama.log_probabilities(prompt, base.ours.config.vocabulary_size)
    near(torch.tensor(found), expected)


def test_llama_cpp_gives_text_the_same_ids(base: Base, gguf: Path, llama: LlamaServer) -> None:
    """With the tokenizer that is read from the file too."""
    read_gguf_model(gguf, base.folder / "from gguf")
    texts, separator = random_texts(500, seed=3), load(base.model).token_to_id("<|im_start|>")
    expected = llama.tokenize(texts, separator)
    tokenizer = load(base.folder / "from gguf")
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == expected


def test_a_gguf_file_is_read_back(base: Base, gguf: Path) -> None:
    found = read_gguf(gguf)
    assert found.config == base.ours.config
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in base.ours.state_dict().items())


def test_onnx_computes_the_same(base: Base) -> None:
    import onnxruntime

    if base.ours.config.rope_scaling is None and base.ours.config.sliding_window is None:
        pytest.skip("the layout of other tests; that of llama3 is not tied either")
    if base.folder.name.startswith(("llama-linear", "llama-yarn", "qwen2-yarn")):
        pytest.skip("scaled positions are constants of the graph: those of llama3 are enough")
    if base.folder.name.startswith("mistral"):
        pytest.skip("qwen2-window has layers with a window and one without")
    write_onnx(base.model, base.folder / "onnx", int8=False)
    session = onnxruntime.InferenceSession(base.folder / "onnx" / "onnx" / "model.onnx")
    config, past = base.ours.config, []
    for part in (slice(0, PROMPT), slice(PROMPT, LENGTH)):
        ids = base.ids[:, part].numpy()
        positions = np.broadcast_to(np.arange(LENGTH)[part], ids.shape)
        empty = np.zeros((len(ids), config.kv_heads, 0, config.head_size), dtype=np.float32)
        inputs = dict(zip(cache_names(config), past or [empty] * 2 * config.layers, strict=True))
        seen = np.ones((len(ids), part.stop), dtype=np.int64)
        logits, *past = session.run(
            None, inputs | {"input_ids": ids, "position_ids": positions, "attention_mask": seen}
        )
        near(torch.from_numpy(logits), base.logits[:, part])


@pytest.mark.parametrize("name", ["smollm2", "qwen2"])
def test_a_16_bit_base_stays_16_bit(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_base(tmp_path / "hf", name, torch.bfloat16)
    outcome = read_huggingface(tmp_path / "hf", tmp_path / "model")
    assert outcome.metrics["weights"] == "bfloat16"
    ours, size = weights.load(tmp_path / "model"), 2 * outcome.metrics["parameters"]
    assert size < (tmp_path / "model" / "model.safetensors").stat().st_size < size + 20_000
    ids = torch.randint(ours.config.vocabulary_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        truth, rounded = (
            AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=dtype)(ids).logits[
                ..., : ours.config.vocabulary_size
            ]
            for dtype in (torch.float32, torch.bfloat16)
        )
        near(weights.load(tmp_path / "model", dtype=torch.float32)(ids), truth)
        assert (ours(ids).float() - truth).norm() < 1.2 * (rounded.float() - truth).norm()
    write_gguf(tmp_path / "model", tmp_path / "bf16.gguf", "bf16")
    assert read_gguf_model(tmp_path / "bf16.gguf", tmp_path / "again").metrics["weights"] == "bfloat16"


def test_what_llama_cpp_cannot_scale_is_one_message(tmp_path: Path) -> None:
    save_base(tmp_path / "hf", "llama-yarn")
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"rope_type": "yarn"', '"rope_type": "yarn", "beta_fast": 16'))
    read_huggingface(tmp_path / "hf", tmp_path / "model")
    with pytest.raises(UserError, match="beta_fast 32 and beta_slow 1 only; export it to hf or onnx"):
        write_gguf(tmp_path / "model", tmp_path / "f32.gguf", "f32")
