"""GGUF files in llama.cpp."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from homegrown.export import gguf_types
from homegrown.export.gguf import KINDS, write_gguf
from homegrown.export.gguf_reader import read_gguf, read_gguf_model
from homegrown.export.gguf_types import kind_named, wanted_type
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Chat, Message
from homegrown.tokenizer.encoding import LLAMA3_PATTERN, QWEN2_PATTERN
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from tests.export.exportable import random_texts, real_text, trained_tokenizer, write_model
from tests.export.llama_server import LlamaServer, serving

# Maximum difference of log-probabilities relative to their spread. With random weights and few layers, rounding errors
# do not average out as in a trained model.
WORST = {
    "f32": 1e-5,
    "f16": 3e-3,
    "bf16": 0.02,
    "q8_0": 0.06,
    "q6_k": 0.2,
    "q5_k_m": 0.25,
    "q4_k_m": 0.5,
    "q4_0": 0.5,
}

TALK = [
    Message("system", "Answer in verse.\n"),
    Message("user", "  Why?  \n\nI ask you: 'so'."),
    Message("assistant", ""),
    Message("user", "naïve 日本 🙂"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tied"), trained_tokenizer())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied model whose rows fill the blocks of K-quants."""
    sizes = {"hidden": 256, "feed_forward": 512, "layers": 2}
    return write_model(tmp_path_factory.mktemp("wide"), trained_tokenizer(), tied=False, **sizes)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)


@pytest.fixture(scope="module")
def llama(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    file = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    write_gguf(folder, file, "f32")
    with serving(file) as server:
        yield server


def as_llama_reads(server: LlamaServer, texts: list[str], separator: int) -> list[list[int]]:
    return [ids for at in range(0, len(texts), 100) for ids in server.tokenize(texts[at : at + 100], separator)]


@torch.inference_mode()
def next_log_probabilities(model: Transformer, prompt: list[int]) -> np.ndarray:
    return model(torch.tensor([prompt]))[0, -1].log_softmax(0).double().numpy()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


def test_llama_cpp_gives_text_the_same_ids(llama: LlamaServer, tokenizer: Tokenizer) -> None:
    texts = random_texts(4000, seed=1)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert as_llama_reads(llama, texts, tokenizer.token_to_id("<pad>")) == expected


@pytest.mark.parametrize("form", ["gpt2", "qwen", "llama3"])
def test_splits_of_published_tokenizers_give_the_same_ids(form: str, tmp_path: Path) -> None:
    given = trained_tokenizer({"gpt2": None, "qwen": QWEN2_PATTERN, "llama3": LLAMA3_PATTERN}[form])
    given.model.ignore_merges = form == "llama3"
    write_gguf(write_model(tmp_path, given, layers=1), tmp_path / "file.gguf", "f16")
    given.encode_special_tokens = True
    texts = [text for text in random_texts(1000, seed=2) if "'ſ" not in text]
    expected = [encoding.ids for encoding in given.encode_batch(texts, add_special_tokens=False)]
    with serving(tmp_path / "file.gguf") as server:
        assert as_llama_reads(server, texts, given.token_to_id("<pad>")) == expected


def test_a_prompt_starts_with_bos(llama: LlamaServer, tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode("Return the </s>", add_special_tokens=False).ids
    assert llama.prompt("Return the </s>", parse_special=False) == [tokenizer.token_to_id("<s>"), *expected]


@pytest.mark.parametrize("which", ["folder", "wide"])
def test_greedy_continuations_are_the_same(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source: Path = request.getfixturevalue(which)
    model, tokenizer = weights.load(source), load(source)
    prompts = [[0, *tokenizer.encode(text).ids] for text in ("Return the", "def encode(", "日本")]
    # With ignore_eos, llama.cpp never chooses a stop token, so both agree until ours does.
    expected = generate(model, prompts, max_tokens=40, stop_ids=Chat(tokenizer).stop_ids)
    assert sum(map(len, expected)) > 60
    write_gguf(source, tmp_path / "file.gguf", "f32")
    with serving(tmp_path / "file.gguf") as server:
        for prompt, ours in zip(prompts, expected, strict=True):
            assert server.complete(prompt, 40, ignore_eos=True)["tokens"][: len(ours)] == ours


def test_perplexity_is_the_same(llama: LlamaServer, folder: Path, tokenizer: Tokenizer) -> None:
    tokens = [0, *tokenizer.encode(real_text()[:400]).ids][:90]
    model = weights.load(folder)
    with torch.inference_mode():
        ours = model(torch.tensor([tokens])).log_softmax(-1)[0].double()
    expected = np.mean([ours[place, token].item() for place, token in enumerate(tokens[1:])])
    theirs = [
        llama.log_probabilities(tokens[:place], model.config.vocabulary_size)[tokens[place]]
        for place in range(1, len(tokens))
    ]
    assert np.exp(-np.mean(theirs)) == pytest.approx(np.exp(-expected), rel=1e-3)


def test_a_chat_has_the_same_ids(llama: LlamaServer, tokenizer: Tokenizer) -> None:
    expected = Chat(tokenizer).encode(TALK, reply=True)
    assert llama.prompt(llama.chat_text(TALK), parse_special=True) == expected
    assert llama.chat_tokens(TALK) == len(expected)


def test_generation_ends_at_every_stop_token_and_no_other(llama: LlamaServer, tokenizer: Tokenizer) -> None:
    stops = {}
    for token in range(7):
        answer = llama.complete([0, 20, 30], 3, logit_bias=[[token, 1000.0]])
        stops[token] = answer["stop_type"] == "eos" and answer["tokens_predicted"] == 1
    assert {token for token, stopped in stops.items() if stopped} == Chat(tokenizer).stop_ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_near_the_original(kind: str, wide: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.gguf"
    assert write_gguf(wide, file, kind) is None
    original = weights.load(wide)
    prompts = [[0, *range(start, start + 4)] for start in range(100, 700, 100)]
    expected = np.concatenate([next_log_probabilities(original, prompt) for prompt in prompts])
    back = read_gguf(file)
    assert {**vars(back.config), "norm_eps": 1e-6} == vars(original.config)
    ours = np.concatenate([next_log_probabilities(back, prompt) for prompt in prompts])
    assert distance(ours, expected) < WORST[kind]
    with serving(file) as server:
        size = len(expected) // len(prompts)
        theirs = np.concatenate([np.array(server.log_probabilities(prompt, size)) for prompt in prompts])
    assert distance(theirs, expected) < WORST[kind]
    # llama.cpp also rounds the inputs of quantized matrices to 8 bits.
    assert distance(theirs, ours) < min(WORST[kind], 0.06)
    assert list(tmp_path.iterdir()) == [file]


def types_in(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}


@pytest.mark.parametrize(("kind", "usual"), [("q4_k_m", "Q4_K"), ("q5_k_m", "Q5_K")])
def test_the_mixtures_are_those_of_llama_cpp(kind: str, usual: str, wide: Path) -> None:
    config = dataclasses.replace(weights.load_config(wide / "config.json"), layers=16)
    for part in ("attn_v", "ffn_down"):
        types = [wanted_type(kind_named(kind), f"blk.{layer}.{part}.weight", 2, config).name for layer in range(16)]
        # As in the Q4_K_M of every model of 16 layers.
        assert [layer for layer in range(16) if types[layer] == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
        assert types[2] == usual


def test_the_output_is_finer_and_gains_are_float32(wide: Path, tmp_path: Path) -> None:
    write_gguf(wide, tmp_path / "file.gguf", "q4_k_m")
    types = types_in(tmp_path / "file.gguf")
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q6_K", "Q4_K")
    assert types["blk.0.attn_q.weight"] == types["blk.0.ffn_gate.weight"] == "Q4_K"
    assert types["blk.0.attn_q_norm.weight"] == types["output_norm.weight"] == "F32"


def test_rows_that_do_not_fill_a_block_are_of_a_larger_type(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    sentence = write_gguf(folder, file, "q4_k_m")
    assert sentence and "15 of 24 tensors" in sentence and "Q4_K → Q5_0, Q6_K → Q8_0" in sentence
    assert set(types_in(file).values()) == {"Q5_0", "Q8_0", "F32"}
    original, prompt = weights.load(folder), [0, 40, 50, 60]
    expected = next_log_probabilities(original, prompt)
    with serving(file) as server:
        assert distance(np.array(server.log_probabilities(prompt, len(expected))), expected) < WORST["q4_k_m"]


def test_llama_cpps_quantizer_rounds_to_the_blocks_precision() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 512)).astype(np.float32)
    for to, bits in ((GGMLQuantizationType.Q4_K, 4), (GGMLQuantizationType.Q6_K, 6)):
        error = np.abs(dequantize(gguf_types.quantize_with_llama_cpp(rows, to), to) - rows)
        assert 0 < error.max() < 6 * np.abs(rows).max() / 2**bits / 2


def refused(source: Path, target: Path, kind: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        write_gguf(source, target / "file.gguf", kind)
    assert not target.exists() or not list(target.iterdir())


def test_what_gguf_does_not_support_is_one_message(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(folder, out, "q3_k", "q3_k is not a kind of GGUF file; choose one of f32, f16")
    classic = write_model(tmp_path / "classic", trained_tokenizer(), family="classic")
    refused(classic, out, "f16", "sinusoidal positions; export it to onnx")
    digits = trained_tokenizer(r"\p{N}{1,2}|\s+|[^\s\p{N}]+")
    refused(write_model(tmp_path / "digits", digits), out, "f16", "does not support")
    llama3 = trained_tokenizer(LLAMA3_PATTERN)
    refused(write_model(tmp_path / "llama3", llama3), out, "f16", "does not support")


def test_a_missing_llama_cpp_is_one_message(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_types._library.cache_clear()
    monkeypatch.setitem(sys.modules, "xllamacpp.xllamacpp", None)
    refused(folder, tmp_path / "out", "q6_k", r"pip install 'homegrown\[llama-cpp\]', or choose q8_0")
    monkeypatch.setitem(sys.modules, "xllamacpp.xllamacpp", np)
    refused(folder, tmp_path / "out", "q6_k", "does not export")


def test_damaged_weights_leave_no_file(folder: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", load(folder))
    path = source / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 7e4
    save_file(tensors, path)
    refused(source, tmp_path / "out", "f16", "weight in model.layers.0.mlp.up_proj.weight beyond float16")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, path)
    refused(source, tmp_path / "out", "f32", r"does not match its config\.json \(tensor model.layers.1.mlp.up_proj")
    path.write_bytes(b"junk")
    refused(source, tmp_path / "out", "f32", "is damaged")
    path.unlink()
    refused(source, tmp_path / "out", "f32", "is missing")


def test_damaged_gguf_files_are_one_message(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    with pytest.raises(UserError, match="is missing"):
        read_gguf(file)
    write_gguf(folder, file, "q8_0")
    content = file.read_bytes()
    for part in (b"", content[:2], content[:1000], content[:-50_000]):
        file.write_bytes(part)
        with pytest.raises(UserError, match="damaged or not a GGUF file"):
            read_gguf(file)
    file.write_bytes(content.replace(b"qwen3", b"qwen9"))
    with pytest.raises(UserError, match="architecture is qwen9"):
        read_gguf(file)


def gguf_of(folder: Path, tmp_path: Path, *changes: tuple[bytes, bytes]) -> Path:
    """Return a GGUF file of a model with bytes of its metadata replaced by as many."""
    write_gguf(folder, tmp_path / "file.gguf", "f32")
    content = (tmp_path / "file.gguf").read_bytes()
    for old, new in changes:
        assert len(old) == len(new)
        assert old in content
        content = content.replace(old, new)
    (tmp_path / "file.gguf").write_bytes(content)
    return tmp_path / "file.gguf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"qwen3", b"mamba"), "its architecture is mamba; supported are llama, qwen2, qwen3; name another"),
        ((b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0t5__"), "the kind 't5__', not a byte-level BPE"),
        ((b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0viki_"), "its pre-tokenizer is 'viki_'; supported are qwen2"),
    ],
)
def test_a_gguf_file_that_is_not_supported_is_one_message(
    folder: Path, tmp_path: Path, change: tuple[bytes, bytes], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read_gguf_model(gguf_of(folder, tmp_path, change), tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_added_tokens_that_are_not_special_stay_tokens_of_text(tmp_path: Path) -> None:
    tokenizer = trained_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    file = tmp_path / "file.gguf"
    write_gguf(write_model(tmp_path / "model", tokenizer), file, "f32")
    read_gguf_model(file, tmp_path / "again")
    again = load(tmp_path / "again")
    flags = {token.content: token.special for token in again.get_added_tokens_decoder().values()}
    assert not flags["<think>"]
    assert flags["<|im_end|>"]
    texts = ["a<think>b", "<|im_end|><think>\n<think>", *[f"{text}<think>{text}" for text in random_texts(200, seed=5)]]
    with serving(file) as server:
        expected = server.tokenize(texts, tokenizer.token_to_id("<|im_start|>"))
    assert [again.encode(text, add_special_tokens=False).ids for text in texts] == expected
