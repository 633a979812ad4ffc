"""The Hugging Face export in transformers, offline and without remote code."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from homegrown.config.tokens import TokenizerSettings
from homegrown.export import huggingface
from homegrown.export.huggingface import write_huggingface
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer import loading, special
from homegrown.tokenizer.chat import Chat, Message, load_chat
from homegrown.tokenizer.train import train_tokenizer

VOCABULARY = 600
CONTEXT = 48
MODERN = ModelConfig(
    family="modern",
    vocabulary_size=VOCABULARY,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_size=16,
    feed_forward=128,
    context=CONTEXT,
    dropout=0.1,
    rope_theta=50_000.0,
    tied=True,
)
UNTIED = replace(MODERN, tied=False, kv_heads=1, rope_theta=10_000.0)
CLASSIC = replace(MODERN, family="classic", kv_heads=4, tied=False)
CONFIGS = {"modern": MODERN, "untied": UNTIED, "classic": CLASSIC}


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    dice = random.Random(1)
    words = ["naïve", "don't", "x12", "жизнь", "日本語", "the", "cafe\u0301", "🙂", "==", "\t", "\n\n", "3.14", "reads"]
    texts = [" ".join(dice.choices(words, k=40)) + "".join(dice.choices("abcdefghij ", k=200)) for _ in range(200)]
    (folder / "shard" / "train").mkdir(parents=True)
    table = pa.table({"text": texts, "source": ["made-up"] * len(texts)})
    pq.write_table(table, folder / "shard" / "train" / "part-00000.parquet")
    train_tokenizer(folder, folder / "shard", TokenizerSettings(vocabulary_size=VOCABULARY, sample_mb=1))
    return folder / "tokenizer.json"


def make_model(config: ModelConfig) -> Transformer:
    """Return a model whose gains, biases and matrices all differ from their initial values."""
    torch.manual_seed(5)
    model = Transformer(config)
    model.initialize()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 0.8, std=0.3)
        elif name != "model.embed_tokens.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Callable[..., tuple[Path, Path]]:
    def make(config: ModelConfig, dtype: str = "float32", card: str | None = None) -> tuple[Path, Path]:
        folder, out = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("export")
        weights.save(make_model(config), folder)
        (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
        write_huggingface(folder, out, dtype, card)
        return folder, out

    return make


@pytest.fixture(scope="session", params=list(CONFIGS))
def exported(request: pytest.FixtureRequest, write: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    """The folders of a model and of its export in float32."""
    return write(CONFIGS[request.param], card="# A card\n")


def values(out: Path, name: str = "config.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / name).read_text())
    return content


def load(out: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(out, local_files_only=True, trust_remote_code=False, **options).eval()


def load_tokenizer(out: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(out, local_files_only=True)


def shapes(out: Path) -> dict[str, list[int]]:
    with safe_open(out / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)


@torch.inference_mode()
def test_logits_are_ours(exported: tuple[Path, Path]) -> None:
    folder, out = exported
    tokens = torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(7))
    ours, theirs = weights.load(folder)(tokens), load(out)(tokens).logits
    assert theirs.dtype == torch.float32
    assert ours.std() > 0.1
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_greedy_continuations_are_ours(exported: tuple[Path, Path]) -> None:
    folder, out = exported
    model, theirs = weights.load(folder), load(out)
    marks = special.special_ids(loading.load(folder))
    for prompt in ([marks.bos], [marks.bos, 300, 17, 511]):
        expected = list(prompt)
        while len(expected) < CONTEXT and expected[-1] not in (marks.eos, marks.message_end):
            expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
        given = torch.tensor([prompt])
        found = theirs.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_length=CONTEXT)
        assert found[0].tolist() == expected


@torch.inference_mode()
def test_padded_prompts_continue_as_they_would_alone(exported: tuple[Path, Path]) -> None:
    out = exported[1]
    theirs, text = load(out), load_tokenizer(out)
    prompts = ["the naïve", "reads x12 and 日本語 reads the"]
    batch = text(prompts, return_tensors="pt", padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    together = theirs.generate(**batch, do_sample=False, max_new_tokens=6, eos_token_id=-1)
    for row, prompt in zip(together, prompts, strict=True):
        alone = text(prompt, return_tensors="pt")
        expected = theirs.generate(**alone, do_sample=False, max_new_tokens=6, eos_token_id=-1)
        assert row[-6:].tolist() == expected[0, -6:].tolist()


_RUN_4 = """
import json, sys, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4.")
for line in sys.stdin:
    folder, prompts = json.loads(line)
    text, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    batches = (prompts, *([prompt] for prompt in prompts))
    given = [text(batch, return_tensors="pt", padding=True) for batch in batches]
    found = [model.generate(**one, max_new_tokens=6, do_sample=False)[:, -6:].tolist() for one in given]
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, list[str]], Any]]:
    """How transformers 4 continues prompts together and each alone: a process beside our transformers 5."""
    where = tmp_path_factory.mktemp("transformers4")
    needs = ["transformers==4.57.6", "huggingface_hub<1", "tokenizers<0.23"]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--no-deps"]
    if subprocess.run([*install, "--target", str(where), *needs], check=False).returncode:
        pytest.skip("the package index does not answer")
    environment = {**os.environ, "PYTHONPATH": str(where), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", _RUN_4], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        given, found = process.stdin, process.stdout
        assert given and found

        def ask(folder: Path, prompts: list[str]) -> Any:
            print(json.dumps([str(folder), prompts]), file=given, flush=True)
            return json.loads(found.readline())

        yield ask
        given.close()


@pytest.mark.slow
def test_transformers_4_continues_a_padded_batch(
    exported: tuple[Path, Path], transformers_4: Callable[[Path, list[str]], Any]
) -> None:
    prompts = ["the naïve", "reads x12 and 日本語 reads the"]
    together, first, second = transformers_4(exported[1], prompts)
    assert together == [*first, *second]
    theirs, text = load(exported[1]), load_tokenizer(exported[1])
    batch = text(prompts, return_tensors="pt", padding=True)
    assert theirs.generate(**batch, do_sample=False, max_new_tokens=6)[:, -6:].tolist() == together


def random_strings(count: int) -> list[str]:
    """Return strings of code points of every plane but surrogates, between white space, marks, digits and letters."""
    dice = random.Random(11)
    alphabets = [
        [chr(code) for code in [*range(0xD800), *range(0xE000, 0x110000, 7)]],
        list(" \t\n\r\x0b\x0c\x85\u00a0\u2028\u3000\ufeff"),
        list("e\u0301\u0308\u200d\ufe0f🙂👍🏽"),
        list("0123456789٣४½.,'sStTlL<|>_"),
        [chr(code) for code in range(0x80)],
        ["naïve", "don't", "жизнь", " the", "cafe\u0301", "日本語", "\r\n"],
    ]
    return ["".join(dice.choice(dice.choice(alphabets)) for _ in range(dice.randint(0, 24))) for _ in range(count)]


def test_tokens_of_ten_thousand_random_strings_are_ours(write: Callable[..., tuple[Path, Path]]) -> None:
    folder, out = write(MODERN)
    text, theirs = loading.load(folder), load_tokenizer(out)
    strings = random_strings(10_000)
    ours = [encoding.ids for encoding in text.encode_batch(strings, add_special_tokens=False)]
    assert theirs(strings, add_special_tokens=False)["input_ids"] == ours
    assert theirs.batch_decode(ours[:2000], skip_special_tokens=True) == strings[:2000]
    bos = special.special_ids(text).bos
    assert theirs(strings[:50])["input_ids"] == [[bos, *ids] for ids in ours[:50]]


def test_the_chat_template_gives_our_ids(exported: tuple[Path, Path]) -> None:
    from transformers import PreTrainedTokenizerFast

    folder, out = exported
    text = loading.load(folder)
    talk = [Message("system", "Be brief.\n"), Message("user", " Why? 日本 🙂"), Message("assistant", "So.")]
    given = [{"role": message.role, "content": message.content} for message in talk]
    theirs = load_tokenizer(out)
    in_json = PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"), chat_template=values(out, "tokenizer_config.json")["chat_template"]
    )
    for reply in (False, True):
        expected = Chat(text).encode(talk, reply=reply)
        for other in (theirs, in_json):
            assert other.apply_chat_template(given, add_generation_prompt=reply, return_dict=False) == expected


def test_every_stop_token_is_named(exported: tuple[Path, Path]) -> None:
    folder, out = exported
    stops = load_chat(folder).stop_ids
    assert set(values(out, "generation_config.json")["eos_token_id"]) == stops
    assert set(values(out)["eos_token_id"]) == stops
    assert set(load(out).generation_config.eos_token_id) == stops
    theirs = load_tokenizer(out)
    marks = special.special_ids(loading.load(folder))
    assert (theirs.bos_token_id, theirs.eos_token_id) == (marks.bos, marks.eos)
    assert theirs.pad_token == "<pad>"
    assert theirs.model_max_length == CONTEXT
    assert {"<|im_start|>", "<|im_end|>"} <= set(theirs.all_special_tokens)


# The keys that mlx-lm's `qwen3.ModelArgs` requires, and those that vLLM's `qwen3.py` and `qwen2.py` read.
MLX = {
    *("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "rms_norm_eps"),
    *("vocab_size", "num_key_value_heads", "max_position_embeddings", "rope_theta", "head_dim", "tie_word_embeddings"),
}
VLLM = {"architectures", "attention_bias", "hidden_act", "torch_dtype", "bos_token_id", "eos_token_id"}


@pytest.mark.parametrize("config", [MODERN, UNTIED], ids=["tied", "untied"])
def test_vllm_and_mlx_find_their_keys(write: Callable[..., tuple[Path, Path]], config: ModelConfig) -> None:
    out = write(config)[1]
    written = values(out)
    assert written.keys() >= MLX | VLLM
    assert (written["architectures"], written["model_type"]) == (["Qwen3ForCausalLM"], "qwen3")
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == config.rope_theta
    assert written["dtype"] == written["torch_dtype"] == "float32"
    assert written.get("rope_scaling") is None
    assert "auto_map" not in written
    # Both map the tensor names of transformers' Qwen3 to their own; a tied output has no tensor.
    loaded = load(out)
    tied = {"lm_head.weight"} if config.tied else set()
    expected = {name: list(tensor.shape) for name, tensor in loaded.state_dict().items() if name not in tied}
    assert shapes(out) == expected
    for name in ("q_norm", "k_norm"):
        assert expected[f"model.layers.0.self_attn.{name}.weight"] == [written["head_dim"]]


def test_opt_finds_its_keys(write: Callable[..., tuple[Path, Path]]) -> None:
    out = write(CLASSIC)[1]
    loaded = load(out)
    assert values(out)["architectures"] == ["OPTForCausalLM"]
    assert shapes(out) == {name: list(tensor.shape) for name, tensor in loaded.state_dict().items()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_types(write: Callable[..., tuple[Path, Path]], dtype: str) -> None:
    folder, out = write(MODERN, dtype)
    model = load(out)
    assert model.dtype == getattr(torch, dtype)
    original = weights.load(folder).state_dict()
    assert all(
        torch.equal(tensor, original[name].to(tensor.dtype))
        for name, tensor in model.state_dict().items()
        if name in original
    )


def test_weights_above_the_limit_are_sharded(
    write: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert huggingface.SHARD_BYTES == 5 * 10**9
    folder, unsplit = write(UNTIED)
    assert not (unsplit / "model.safetensors.index.json").exists()
    size = sum(tensor.numel() * 4 for tensor in weights.load(folder).state_dict().values())
    monkeypatch.setattr(huggingface, "SHARD_BYTES", size // 3)
    out = write(UNTIED)[1]
    index = values(out, "model.safetensors.index.json")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((out / file).stat().st_size < size // 3 + 10_000 for file in files)
    assert index["metadata"]["total_size"] == size
    ours, theirs = weights.load(folder).state_dict(), load(out).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_card_is_written_if_given(exported: tuple[Path, Path], write: Callable[..., tuple[Path, Path]]) -> None:
    assert (exported[1] / "README.md").read_text() == "# A card\n"
    assert not (write(MODERN)[1] / "README.md").exists()


def test_it_needs_no_network_and_no_code(
    write: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    out = write(MODERN)[1]
    assert not list(out.glob("*.py"))

    def refuse(*arguments: Any) -> None:
        raise AssertionError("it wants a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    writer = pipeline("text-generation", str(out), trust_remote_code=False)
    (answer,) = writer([{"role": "user", "content": "the"}], max_new_tokens=4, do_sample=False)
    assert answer["generated_text"][-1]["role"] == "assistant"
