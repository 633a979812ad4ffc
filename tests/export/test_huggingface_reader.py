"""Folders saved by transformers, or exported here, give the same logits after import."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from homegrown.export.huggingface import write_huggingface
from homegrown.export.huggingface_reader import read_huggingface
from homegrown.model import weights
from homegrown.tokenizer.chat import load_chat
from homegrown.util.errors import UserError
from tests.finetuning.conversations import write_base

_SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 320,
}  # fmt: skip


def saved(folder: Path, kind: str, **changes: object) -> torch.nn.Module:
    """Save a random model with transformers and a tokenizer from here, and return it."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**_SHAPE, head_dim=16, rope_theta=5000.0, **changes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**_SHAPE, rms_norm_eps=1e-5, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_base(folder / "text")
    (folder / "text" / "tokenizer.json").rename(folder / "tokenizer.json")
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tied"), [("qwen3", True), ("qwen3", False), ("llama", False)])
def test_a_model_of_transformers_computes_the_same(tmp_path: Path, kind: str, tied: bool) -> None:
    theirs = saved(tmp_path / "hf", kind, tie_word_embeddings=tied)
    read_huggingface(tmp_path / "hf", tmp_path / "ours")
    ours = weights.load(tmp_path / "ours")
    size = ours.config.vocabulary_size
    assert size < _SHAPE["vocab_size"]  # unused rows are dropped
    ids = torch.randint(0, size, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs(ids).logits[..., :size], atol=1e-4)
    write_huggingface(tmp_path / "ours", tmp_path / "again", "float32")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert type(again) is type(theirs)
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, ours(ids), atol=1e-4)


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_our_export_round_trips(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    write_huggingface(base, tmp_path / "hf", "float32")
    read_huggingface(tmp_path / "hf", tmp_path / "back")
    size = weights.load(base).config.vocabulary_size
    ids = torch.randint(0, size, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(weights.load(tmp_path / "back")(ids), weights.load(base)(ids), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mamba"},
            "type 'mamba', which is not supported; supported types: llama, mistral, qwen2, qwen3, opt",
        ),
        ({"attention_bias": True}, "it has biases in attention"),
        ({"rope_scaling": {"rope_type": "dynamic"}, "rope_parameters": None}, "scaled by 'dynamic'"),
        ({"intermediate_size": 77}, "does not match its configuration"),
    ],
)
def test_what_is_not_supported_is_one_message(tmp_path: Path, change: dict[str, object], message: str) -> None:
    base = write_base(tmp_path / "base")
    write_huggingface(base, tmp_path / "hf", "float32")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as refusal:
        read_huggingface(tmp_path / "hf", tmp_path / "out")
    assert "\n" not in str(refusal.value)


def test_nothing_is_added_to_a_vocabulary_without_message_tokens(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_huggingface(base, tmp_path / "hf", "float32")
    path = tmp_path / "hf" / "tokenizer.json"
    path.write_text(path.read_text().replace('"<|im_end|>"', '"<|other|>"'))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "hf" / name).unlink()
    read_huggingface(tmp_path / "hf", tmp_path / "out")
    theirs = Tokenizer.from_file(str(path))
    assert load_chat(tmp_path / "out").tokenizer.get_vocab() == theirs.get_vocab()
    assert not load_chat(tmp_path / "out").supported


def test_a_folder_without_a_model_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no config"):
        read_huggingface(tmp_path, tmp_path / "out")
